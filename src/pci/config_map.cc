#include "pci/config_map.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "base/log.h"
#include "pci/description_check.h"
#include "pci/layout.h"

namespace uvfio::pci {
namespace {

constexpr std::uint16_t kAllBits = 0xffff;
constexpr std::size_t kCapabilitiesEnd = 256;
constexpr std::uint8_t kPcieSize = 0x3c;      // PCI Express Base 3.0, figure 7-10
constexpr std::uint64_t kSmallestRom = 2048;  // PCI 3.0, 6.2.5.2

// One capability of the list: where it is, and its registers with offsets from there. Those of id
// and next pointer are not among them.
struct Capability {
  std::uint8_t id = 0;
  std::uint8_t size = 0;  // bytes, whole dwords
  std::vector<ConfigField> fields;
};

// PCI Power Management 1.2, 3.2. D1, D2 and PME are not supported.
Capability power_management() {
  return {.id = PCI_CAP_ID_PM,
          .size = PCI_PM_SIZEOF,
          .fields = {{.offset = PCI_PM_PMC, .width = 2, .value = 3},
                     {.offset = PCI_PM_CTRL, .width = 2, .writable = PCI_PM_CTRL_STATE_MASK}}};
}

// PCI 3.0, 6.8.1, with 64-bit addresses.
Capability msi(const Description& description) {
  const auto exponent = static_cast<std::uint32_t>(std::countr_zero(description.msi_vectors));
  const auto vectors =
      static_cast<std::uint32_t>((std::uint64_t{1} << description.msi_vectors) - 1);
  std::uint32_t flags = PCI_MSI_FLAGS_64BIT | exponent << 1;
  if (description.msi_maskable) flags |= PCI_MSI_FLAGS_MASKBIT;
  Capability msi{.id = PCI_CAP_ID_MSI,
                 .size = 16,
                 .fields = {{.offset = PCI_MSI_FLAGS,
                             .width = 2,
                             .value = flags,
                             .writable = PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE},
                            {.offset = PCI_MSI_ADDRESS_LO, .width = 4, .writable = 0xffff'fffc},
                            {.offset = PCI_MSI_ADDRESS_HI, .width = 4, .writable = 0xffff'ffff},
                            {.offset = PCI_MSI_DATA_64, .width = 2, .writable = kAllBits}}};
  if (description.msi_maskable) {
    msi.size = 24;
    msi.fields.push_back({.offset = PCI_MSI_MASK_64, .width = 4, .writable = vectors});
    msi.fields.push_back({.offset = PCI_MSI_PENDING_64, .width = 4});
  }
  return msi;
}

// PCI 3.0, 6.8.2.
Capability msix(const MsiX& msix) {
  return {.id = PCI_CAP_ID_MSIX,
          .size = PCI_CAP_MSIX_SIZEOF,
          .fields = {
              {.offset = PCI_MSIX_FLAGS,
               .width = 2,
               .value = msix.vectors - 1u,
               .writable = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL},
              {.offset = PCI_MSIX_TABLE, .width = 4, .value = msix.table_offset | msix.table_bar},
              {.offset = PCI_MSIX_PBA, .width = 4, .value = msix.pba_offset | msix.pba_bar}}};
}

// PCI Express Base 3.0, 7.8: an endpoint on a link of one lane at 2.5 GT/s.
Capability pcie(const Description& description) {
  std::uint32_t device = PCI_EXP_DEVCAP_RBER;
  std::uint32_t control = 0xffff & ~PCI_EXP_DEVCTL_BCR_FLR;
  if (description.flr) {
    device |= PCI_EXP_DEVCAP_FLR;
    control |= PCI_EXP_DEVCTL_BCR_FLR;
  }
  constexpr std::uint32_t kLink = PCI_EXP_LNKSTA_CLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1;
  return {.id = PCI_CAP_ID_EXP,
          .size = kPcieSize,
          .fields = {
              {.offset = PCI_EXP_FLAGS, .width = 2, .value = 2 | PCI_EXP_TYPE_ENDPOINT << 4},
              {.offset = PCI_EXP_DEVCAP, .width = 4, .value = device},
              {.offset = PCI_EXP_DEVCTL,
               .width = 2,
               .value =
                   PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B,
               .writable = control},
              {.offset = PCI_EXP_DEVSTA,
               .width = 2,
               .clearable = PCI_EXP_DEVSTA_CED | PCI_EXP_DEVSTA_NFED | PCI_EXP_DEVSTA_FED |
                            PCI_EXP_DEVSTA_URD},
              {.offset = PCI_EXP_LNKCAP,
               .width = 4,
               .value = PCI_EXP_LNKCAP_SLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1},
              {.offset = PCI_EXP_LNKCTL,
               .width = 2,
               .writable = PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_RCB | PCI_EXP_LNKCTL_CCC |
                           PCI_EXP_LNKCTL_ES},
              {.offset = PCI_EXP_LNKSTA, .width = 2, .value = kLink},
              {.offset = PCI_EXP_DEVCTL2,
               .width = 2,
               .writable = PCI_EXP_DEVCTL2_COMP_TIMEOUT | PCI_EXP_DEVCTL2_COMP_TMOUT_DIS},
              {.offset = PCI_EXP_LNKCAP2, .width = 4, .value = PCI_EXP_LNKCAP2_SLS_2_5GB},
              {.offset = PCI_EXP_LNKCTL2,
               .width = 2,
               .value = PCI_EXP_LNKCTL2_TLS_2_5GT,
               .writable = PCI_EXP_LNKCTL2_TLS},
          }};
}

Capability extra(const ExtraCapability& extra) {
  Capability capability{.id = extra.id,
                        .size = static_cast<std::uint8_t>((extra.body.size() + 2 + 3) & ~3u),
                        .fields = {}};
  for (std::size_t i = 0; i < extra.body.size(); ++i) {
    capability.fields.push_back({.offset = static_cast<std::uint16_t>(PCI_CAP_FLAGS + i),
                                 .width = 1,
                                 .value = extra.body[i],
                                 .writable = extra.writable.empty() ? 0u : extra.writable[i]});
  }
  return capability;
}

// In the order of the list.
std::vector<Capability> capabilities_of(const Description& description) {
  std::vector<Capability> all;
  if (description.power_management) all.push_back(power_management());
  if (description.msi_vectors != 0) all.push_back(msi(description));
  if (description.msix) all.push_back(msix(*description.msix));
  if (description.pcie) all.push_back(pcie(description));
  for (const auto& each : description.capabilities) all.push_back(extra(each));
  return all;
}

void declare_header(ConfigSpace& space, const Description& description) {
  std::uint32_t command =
      kCommandIo | kCommandMemory | kCommandMaster | PCI_COMMAND_PARITY | PCI_COMMAND_SERR;
  if (description.intx) command |= kCommandIntxDisable;
  const ConfigField fields[] = {
      read_only(ConfigRegister::vendor_id, 2, description.vendor_id),
      read_only(ConfigRegister::device_id, 2, description.device_id),
      {.offset = offset_of(ConfigRegister::command), .width = 2, .writable = command},
      {.offset = offset_of(ConfigRegister::status),
       .width = 2,
       .clearable = PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT | PCI_STATUS_REC_TARGET_ABORT |
                    PCI_STATUS_REC_MASTER_ABORT | PCI_STATUS_SIG_SYSTEM_ERROR |
                    PCI_STATUS_DETECTED_PARITY},
      read_only(ConfigRegister::revision_id, 1, description.revision_id),
      read_only(ConfigRegister::programming_interface, 1, description.class_code & 0xff),
      read_only(ConfigRegister::class_code, 2, description.class_code >> 8),
      read_write(ConfigRegister::cache_line_size, 1),
      read_write(ConfigRegister::latency_timer, 1),
      read_only(ConfigRegister::subsystem_vendor_id, 2, description.subsystem_vendor_id),
      read_only(ConfigRegister::subsystem_id, 2, description.subsystem_id),
      read_write(ConfigRegister::interrupt_line, 1),
      read_only(ConfigRegister::interrupt_pin, 1, description.intx ? 1 : 0),
  };
  for (const ConfigField& field : fields) space.declare(field);
}

// Sizing needs nothing more than fields: address bits below the size cannot be written.
void declare_bars(ConfigSpace& space, const Description& description) {
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const Bar& bar = description.bars[i];
    if (bar.kind == Bar::Kind::none) continue;
    std::uint32_t type = bar.kind == Bar::Kind::io ? PCI_BASE_ADDRESS_SPACE_IO : 0;
    if (bar.kind == Bar::Kind::memory64) type |= PCI_BASE_ADDRESS_MEM_TYPE_64;
    if (bar.prefetchable) type |= PCI_BASE_ADDRESS_MEM_PREFETCH;
    const std::uint64_t address = ~(bar.size - 1);
    const auto offset = static_cast<std::uint16_t>(offset_of(ConfigRegister::bar0) + 4 * i);
    space.declare({.offset = offset,
                   .width = 4,
                   .value = type,
                   .writable = static_cast<std::uint32_t>(address)});
    if (bar.kind == Bar::Kind::memory64) {
      space.declare({.offset = static_cast<std::uint16_t>(offset + 4),
                     .width = 4,
                     .writable = static_cast<std::uint32_t>(address >> 32)});
    }
  }
}

}  // namespace

Result<ConfigMap> check_and_map(const Description& description) {
  if (const auto mistake = find_mistake(description)) {
    spdlog::error("PCI model {:04x}:{:04x}: {}", description.vendor_id, description.device_id,
                  *mistake);
    return fail(EINVAL);
  }
  ConfigMap map;
  if (description.pcie) map.size = 4096;
  if (!description.rom.empty()) {
    map.rom_size = std::bit_ceil(std::max<std::uint64_t>(description.rom.size(), kSmallestRom));
  }
  std::size_t end = PCI_STD_HEADER_SIZEOF;
  for (const Capability& each : capabilities_of(description)) {
    if (each.size > kCapabilitiesEnd - end) {
      spdlog::error("PCI model {:04x}:{:04x}: its capabilities do not fit", description.vendor_id,
                    description.device_id);
      return fail(EINVAL);
    }
    const auto offset = static_cast<std::uint8_t>(end);
    if (each.id == PCI_CAP_ID_PM) map.power_management = offset;
    if (each.id == PCI_CAP_ID_MSI) map.msi = offset;
    if (each.id == PCI_CAP_ID_MSIX) map.msix = offset;
    if (each.id == PCI_CAP_ID_EXP) map.pcie = offset;
    end += each.size;
  }
  return map;
}

ConfigSpace make_config_space(const Description& description, const ConfigMap& map) {
  ConfigSpace space(map.size);
  declare_header(space, description);
  declare_bars(space, description);
  if (map.rom_size != 0) {
    space.declare(
        {.offset = offset_of(ConfigRegister::rom),
         .width = 4,
         .writable = static_cast<std::uint32_t>(~(map.rom_size - 1)) | PCI_ROM_ADDRESS_ENABLE});
  }
  std::uint16_t link = offset_of(ConfigRegister::capabilities);
  std::uint16_t offset = PCI_STD_HEADER_SIZEOF;
  for (const Capability& each : capabilities_of(description)) {
    space.set(link, 1, offset);
    space.set(offset, 1, each.id);
    for (ConfigField field : each.fields) {
      field.offset = static_cast<std::uint16_t>(field.offset + offset);
      space.declare(field);
    }
    link = static_cast<std::uint16_t>(offset + PCI_CAP_LIST_NEXT);
    offset = static_cast<std::uint16_t>(offset + each.size);
  }
  if (offset != PCI_STD_HEADER_SIZEOF) {
    space.set(offset_of(ConfigRegister::status), 2, kStatusCapabilities);
  }
  return space;
}

}  // namespace uvfio::pci
