#include "devices/nvme/identify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "devices/nvme/registers.h"

namespace uvfio::nvme {
namespace {

// Figure 249: a power state.
struct PowerStateDescriptor {
  std::uint16_t max_power;  // centiwatts
  std::uint8_t reserved[30];
};
static_assert(sizeof(PowerStateDescriptor) == 32);

// Figure 247, the fields that are not 0.
struct IdentifyController {
  std::uint16_t vid;
  std::uint16_t ssvid;
  std::byte sn[20];
  std::byte mn[40];
  std::byte fr[8];
  std::uint8_t rab;
  std::uint8_t ieee[3];
  std::uint8_t cmic;
  std::uint8_t mdts;
  std::uint16_t cntlid;
  std::uint32_t ver;
  std::uint32_t rtd3r;
  std::uint32_t rtd3e;
  std::uint32_t oaes;
  std::uint32_t ctratt;
  std::uint8_t reserved100[11];
  std::uint8_t cntrltype;
  std::uint8_t reserved112[144];
  std::uint16_t oacs;
  std::uint8_t acl;
  std::uint8_t aerl;
  std::uint8_t frmw;
  std::uint8_t lpa;
  std::uint8_t elpe;
  std::uint8_t npss;
  std::uint8_t avscc;
  std::uint8_t apsta;
  std::uint16_t wctemp;
  std::uint16_t cctemp;
  std::uint8_t reserved270[242];
  std::uint8_t sqes;
  std::uint8_t cqes;
  std::uint16_t maxcmd;
  std::uint32_t nn;
  std::uint16_t oncs;
  std::uint16_t fuses;
  std::uint8_t fna;
  std::uint8_t vwc;
  std::uint16_t awun;
  std::uint16_t awupf;
  std::uint8_t nvscc;
  std::uint8_t nwpc;
  std::uint16_t acwu;
  std::uint16_t reserved534;
  std::uint32_t sgls;
  std::uint8_t reserved540[228];
  char subnqn[256];
  std::uint8_t reserved1024[1024];
  PowerStateDescriptor psd[32];
  std::uint8_t vendor[1024];
};
static_assert(sizeof(IdentifyController) == kIdentifySize);
static_assert(offsetof(IdentifyController, cntrltype) == 111);
static_assert(offsetof(IdentifyController, oacs) == 256);
static_assert(offsetof(IdentifyController, sqes) == 512);
static_assert(offsetof(IdentifyController, sgls) == 536);
static_assert(offsetof(IdentifyController, subnqn) == 768);
static_assert(offsetof(IdentifyController, psd) == 2048);

// Figure 246
struct LbaFormat {
  std::uint16_t metadata;
  std::uint8_t data_shift;
  std::uint8_t performance;
};
static_assert(sizeof(LbaFormat) == 4);

// Figure 245
struct IdentifyNamespace {
  std::uint64_t nsze;
  std::uint64_t ncap;
  std::uint64_t nuse;
  std::uint8_t nsfeat;
  std::uint8_t nlbaf;
  std::uint8_t flbas;
  std::uint8_t mc;
  std::uint8_t dpc;
  std::uint8_t dps;
  std::uint8_t nmic;
  std::uint8_t rescap;
  std::uint8_t fpi;
  std::uint8_t dlfeat;
  std::uint8_t reserved34[94];
  LbaFormat lbaf[16];
  std::uint8_t reserved192[3904];
};
static_assert(sizeof(IdentifyNamespace) == kIdentifySize);
static_assert(offsetof(IdentifyNamespace, dlfeat) == 33);
static_assert(offsetof(IdentifyNamespace, lbaf) == 128);

constexpr std::uint16_t kOacsFormat = 1U << 1;
constexpr std::uint16_t kOacsDoorbellBuffer = 1U << 8;
constexpr std::uint8_t kLpaEffects = 1U << 1;
constexpr std::uint8_t kLpaOffset = 1U << 2;
constexpr std::uint16_t kOncsCompare = 1U << 0;
constexpr std::uint16_t kOncsDatasetManagement = 1U << 2;
constexpr std::uint16_t kOncsWriteZeroes = 1U << 3;
constexpr std::uint16_t kOncsSelect = 1U << 4;
constexpr std::uint16_t kOncsVerify = 1U << 7;
constexpr std::uint8_t kFrmwOneReadOnlySlot = 1U << 0 | 1U << 1;
constexpr std::uint8_t kVwcPresent = 1U << 0 | 3U << 1;  // Flush takes all namespaces at once
constexpr std::uint32_t kSglSupported = 1;               // without alignment
constexpr std::uint8_t kNsfeatThin = 1U << 0;
constexpr std::uint8_t kDlfeatZeroes = 1U << 0;       // deallocated blocks read as zeros
constexpr std::uint8_t kDlfeatWriteZeroes = 1U << 3;  // Write Zeroes can deallocate
constexpr std::uint8_t kIoController = 1;
constexpr std::uint8_t kNidtUuid = 3;

template <typename T>
IdentifyData bytes_of(const T& data) {
  static_assert(sizeof data == kIdentifySize);
  IdentifyData bytes;
  std::memcpy(bytes.data(), &data, sizeof data);
  return bytes;
}

void put_formats(IdentifyNamespace& data) {
  data.nlbaf = kLbaShifts.size() - 1;
  for (std::size_t i = 0; i < kLbaShifts.size(); ++i) {
    // Format 1 has the size of the host's pages, for which the file is better.
    data.lbaf[i] = {.data_shift = static_cast<std::uint8_t>(kLbaShifts[i]),
                    .performance = static_cast<std::uint8_t>(kLbaShifts[i] == 12 ? 0 : 1)};
  }
  data.nsfeat = kNsfeatThin;
  data.dlfeat = kDlfeatZeroes | kDlfeatWriteZeroes;
}

}  // namespace

void put_text(std::span<std::byte> field, const std::string& text) {
  std::ranges::fill(field, std::byte{' '});
  std::memcpy(field.data(), text.data(), std::min(field.size(), text.size()));
}

IdentifyData identify_controller(const Identity& identity, const Namespaces& namespaces) {
  IdentifyController data{};
  data.vid = identity.pci_vendor;
  data.ssvid = identity.pci_subsystem_vendor;
  put_text(data.sn, identity.serial);
  put_text(data.mn, "uvfio NVMe disk");
  put_text(data.fr, kFirmwareRevision);
  data.rab = 6;
  data.mdts = kMdts;
  data.cntlid = 1;
  data.ver = kVersion;
  data.oaes = kEventNamespaceAttributes;
  data.cntrltype = kIoController;
  data.oacs = kOacsFormat | kOacsDoorbellBuffer;
  data.acl = kAbortLimit - 1;
  data.aerl = kEventRequestLimit - 1;
  data.frmw = kFrmwOneReadOnlySlot;
  data.lpa = kLpaEffects | kLpaOffset;
  data.elpe = kErrorLogEntries - 1;
  data.wctemp = kWarningTemperature;
  data.cctemp = kCriticalTemperature;
  data.sqes = kSqEntryShift | kSqEntryShift << 4;
  data.cqes = kCqEntryShift | kCqEntryShift << 4;
  data.nn = static_cast<std::uint32_t>(namespaces.size());
  data.oncs = kOncsCompare | kOncsDatasetManagement | kOncsWriteZeroes | kOncsSelect | kOncsVerify;
  data.vwc = kVwcPresent;
  data.sgls = kSglSupported;
  const std::string nqn = fmt::format("nqn.2014.08.org.nvmexpress:uuid:{:016x}{:016x}",
                                      fingerprint(identity.serial), fingerprint("uvfio"));
  std::memcpy(data.subnqn, nqn.data(), std::min(nqn.size(), sizeof data.subnqn - 1));
  data.psd[0].max_power = 100;
  return bytes_of(data);
}

IdentifyData identify_namespace(const Namespace& target) {
  IdentifyNamespace data{};
  data.nsze = data.ncap = target.blocks();
  data.nuse = target.used_blocks();
  data.flbas = static_cast<std::uint8_t>(target.format());
  put_formats(data);
  return bytes_of(data);
}

IdentifyData identify_any_namespace() {
  IdentifyNamespace data{};
  put_formats(data);
  return bytes_of(data);
}

IdentifyData active_namespaces(const Namespaces& namespaces, std::uint32_t after) {
  IdentifyData data{};
  std::size_t at = 0;
  for (const auto& each : namespaces) {
    const std::uint32_t id = each->id();
    if (id <= after || at + sizeof id > data.size()) continue;
    std::memcpy(&data[at], &id, sizeof id);
    at += sizeof id;
  }
  return data;
}

IdentifyData namespace_descriptors(const Namespace& target) {
  IdentifyData data{};
  data[0] = std::byte{kNidtUuid};
  data[1] = std::byte{sizeof target.uuid()};
  std::memcpy(&data[4], target.uuid().data(), target.uuid().size());
  return data;
}

}  // namespace uvfio::nvme
