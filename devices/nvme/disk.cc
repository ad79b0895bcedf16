#include "devices/nvme/disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace uvfio::nvme {
namespace {

// No vendor has this number; Linux drivers find the disk by its class.
constexpr std::uint16_t kVendor = 0x1234;
constexpr std::uint16_t kDevice = 0x4e56;
constexpr std::uint32_t kClass = 0x010802;  // mass storage, non-volatile memory, NVMe

// BAR 0: registers, doorbells, the MSI-X table and its pending bits, a page each. The first two can
// be mapped on request only, as the controller is not told then and has to look.
constexpr std::uint64_t kBarSize = 0x4000;
constexpr std::uint32_t kMsixTable = 0x2000;
constexpr std::uint32_t kMsixPending = 0x3000;
static_assert(kDoorbells + Doorbells::kCount * 4 <= kMsixTable);
static_assert(kMsixTable + (kMaxIoQueues + 1) * 16 <= kMsixPending);

pci::Description describe(const DiskOptions& options) {
  pci::Description description{.vendor_id = kVendor,
                               .device_id = kDevice,
                               .subsystem_vendor_id = kVendor,
                               .subsystem_id = 1,
                               .revision_id = 1,
                               .class_code = kClass,
                               .intx = true,
                               .msi_vectors = 32};
  description.bars[0] = {.kind = pci::Bar::Kind::memory64, .size = kBarSize};
  if (options.mappable) {
    description.bars[0].mappable = {{.offset = 0, .size = kMsixTable}};
    description.bars[0].trap_unmapped = true;
  }
  description.msix = pci::MsiX{.vectors = static_cast<std::uint16_t>(options.io_queues + 1),
                               .table_bar = 0,
                               .table_offset = kMsixTable,
                               .pba_bar = 0,
                               .pba_offset = kMsixPending};
  return description;
}

bool is_serial(const std::string& text) {
  return text.size() <= 20 &&
         std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

// The same disk has the same names whenever it is started.
std::string serial_of(const std::vector<std::string>& files) {
  std::string all;
  for (const std::string& file : files) {
    std::error_code error;
    const auto path = std::filesystem::canonical(file, error);
    all += error ? file : path.string();
    all += '\n';
  }
  return fmt::format("UV{:016x}", fingerprint(all));
}

}  // namespace

std::expected<std::unique_ptr<Disk>, std::string> Disk::create(const DiskOptions& options) {
  if (options.files.empty()) return std::unexpected("no file is given");
  if (options.io_queues == 0 || options.io_queues > kMaxIoQueues)
    return std::unexpected(
        fmt::format("{} queues: 1 to {} are possible", options.io_queues, kMaxIoQueues));
  if (!is_serial(options.serial))
    return std::unexpected("a serial number is up to 20 characters of ASCII");
  Identity identity{.serial = options.serial.empty() ? serial_of(options.files) : options.serial,
                    .pci_vendor = kVendor,
                    .pci_subsystem_vendor = kVendor};

  Namespaces namespaces;
  for (auto file = options.files.begin(); file != options.files.end(); ++file) {
    if (file->empty()) return std::unexpected("a file without a name, before or after a \":\"");
    const auto same = [&](const std::string& other) {
      std::error_code error;
      return std::filesystem::equivalent(*file, other, error);
    };
    if (std::any_of(options.files.begin(), file, same))
      return std::unexpected(fmt::format("{} is given twice", *file));
  }
  for (const std::string& file : options.files) {
    const auto nsid = static_cast<std::uint32_t>(namespaces.size() + 1);
    auto opened = Namespace::open(file, options.lba_size, nsid, identity.serial);
    if (!opened) return std::unexpected(opened.error());
    namespaces.push_back(std::move(*opened));
  }
  auto controller =
      Controller::create(std::move(identity), std::move(namespaces), options.io_queues);
  if (!controller) return std::unexpected(controller.error());
  return std::unique_ptr<Disk>(new Disk(describe(options), std::move(*controller)));
}

// Registers are double words, and pairs of them (3.1); narrower reads are given their part,
// narrower writes do nothing.
std::uint64_t Disk::read_bar(unsigned bar, std::uint64_t offset, unsigned width) {
  if (bar != 0) return 0;
  const std::uint64_t low = controller_->read(offset & ~std::uint64_t{3});
  if (width == 8) return low | std::uint64_t{controller_->read(offset + 4)} << 32;
  return low >> (offset % 4 * 8) & (~std::uint64_t{0} >> (64 - width * 8));
}

void Disk::write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (bar != 0 || width < 4) return;
  controller_->write(offset, static_cast<std::uint32_t>(value));
  if (width == 8) controller_->write(offset + 4, static_cast<std::uint32_t>(value >> 32));
}

}  // namespace uvfio::nvme
