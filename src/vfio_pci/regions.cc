#include "vfio_pci/regions.h"

#include <linux/vfio.h>

#include <algorithm>
#include <cstddef>

#include "pci/layout.h"

namespace uvfio::vfio_pci {
namespace {

constexpr std::uint32_t kReadWrite = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
constexpr std::uint64_t kMsixEntrySize = 16;  // PCI 3.0, 6.8.2

// The legacy ranges that a VGA device decodes (vfio_pci_vga_rw).
struct VgaWindow {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
constexpr std::uint64_t kVgaRegionSize = 0xc0000;
constexpr VgaWindow kVgaWindows[] = {{0xa0000, 0xc0000}, {0x3b0, 0x3bc}, {0x3c0, 0x3e0}};

std::uint32_t little_endian(std::span<const std::byte> rom, std::size_t offset, unsigned width) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < width; ++i) {
    if (offset + i < rom.size())
      value |= std::to_integer<std::uint32_t>(rom[offset + i]) << (8 * i);
  }
  return value;
}

vfio::Capability sparse_mmap(std::span<const pci::Bar::Range> areas) {
  struct {
    std::uint32_t nr_areas;
    std::uint32_t reserved;
  } head{.nr_areas = static_cast<std::uint32_t>(areas.size()), .reserved = 0};
  static_assert(offsetof(vfio_region_info_cap_sparse_mmap, areas) ==
                sizeof(vfio_info_cap_header) + sizeof head);
  vfio::Capability capability{.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1, .payload = {}};
  const auto append = [&](const auto& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    capability.payload.insert(capability.payload.end(), bytes.begin(), bytes.end());
  };
  append(head);
  for (const auto& area : areas) {
    append(vfio_region_sparse_mmap_area{.offset = area.offset, .size = area.size});
  }
  return capability;
}

}  // namespace

std::size_t rom_image_size(std::span<const std::byte> rom) {
  std::size_t end = 0;
  while (true) {
    if (little_endian(rom, end, 2) != 0xaa55) break;
    const std::size_t data = end + little_endian(rom, end + 24, 2);
    if (little_endian(rom, data, 4) != 0x52494350) break;  // "PCIR"
    const std::size_t length = std::size_t{little_endian(rom, data + 16, 2)} * 512;
    const bool last = (little_endian(rom, data + 21, 1) & 0x80) != 0;
    end += length;
    if (length == 0 || last || end >= rom.size()) break;
  }
  return std::min(end, rom.size());
}

Regions::Regions(pci::Function& function)
    : function_(function), rom_image_(rom_image_size(function.description().rom)) {}

Result<vfio::RegionInfo> Regions::info(std::uint32_t index) const {
  vfio::RegionInfo info{.offset = pci::region_offset(index), .capabilities = {}};
  switch (index) {
    case VFIO_PCI_ROM_REGION_INDEX:
      if (rom_image_ == 0) return info;
      info.flags = VFIO_REGION_INFO_FLAG_READ;
      info.size = function_.rom_size();
      return info;
    case VFIO_PCI_VGA_REGION_INDEX:
      if (!function_.description().vga) return fail(EINVAL);
      info.flags = kReadWrite;
      info.size = kVgaRegionSize;
      return info;
    default:
      if (index > VFIO_PCI_BAR5_REGION_INDEX) return fail(EINVAL);
      return bar_info(index);
  }
}

vfio::RegionInfo Regions::bar_info(unsigned bar) const {
  vfio::RegionInfo info{
      .size = function_.bar_size(bar), .offset = pci::region_offset(bar), .capabilities = {}};
  if (info.size == 0) return info;
  info.flags = kReadWrite;
  const auto& mappable = function_.description().bars[bar].mappable;
  if (mappable.empty() || function_.mmap_backing() == nullptr) return info;
  info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
  // Without areas the flag means the whole region. A model's mappable parts leave the MSI-X table
  // out, so that MSIX_MAPPABLE is never true.
  const bool whole = mappable.size() == 1 && mappable[0].size == info.size;
  if (!whole) info.capabilities.push_back(sparse_mmap(mappable));
  return info;
}

Regions::Range Regions::excluded(unsigned bar) const {
  const auto& msix = function_.description().msix;
  if (!msix || msix->table_bar != bar) return {};
  return {.begin = msix->table_offset, .end = msix->table_offset + msix->vectors * kMsixEntrySize};
}

bool Regions::touches_msix_table(unsigned bar, std::uint64_t offset, std::uint64_t size) const {
  const Range table = excluded(bar);
  return offset < table.end && offset + size > table.begin;
}

Result<std::size_t> Regions::clip(std::uint32_t index, std::uint64_t offset,
                                  std::size_t size) const {
  std::uint64_t end = 0;
  if (index == VFIO_PCI_VGA_REGION_INDEX) {
    if (!function_.description().vga) return fail(EINVAL);
    const auto window = std::ranges::find_if(kVgaWindows, [offset](const VgaWindow& each) {
      return offset >= each.begin && offset < each.end;
    });
    if (window == std::end(kVgaWindows)) return fail(EINVAL);
    end = window->end;
  } else if (index == VFIO_PCI_ROM_REGION_INDEX) {
    end = function_.rom_size();
  } else if (index <= VFIO_PCI_BAR5_REGION_INDEX) {
    end = function_.bar_size(index);
  }
  if (offset >= end) return fail(EINVAL);
  return std::min<std::uint64_t>(size, end - offset);
}

Status Regions::read_rom(std::uint64_t offset, std::span<std::byte> data) {
  if (rom_image_ == 0) return fail(ENOMEM);  // what mapping it fails with
  if (offset < rom_image_ && !function_.memory_enabled()) return fail(EIO);
  const auto image = std::span(function_.description().rom).first(rom_image_);
  const std::size_t there =
      offset < image.size() ? std::min(data.size(), image.size() - offset) : 0;
  if (there != 0) std::ranges::copy(image.subspan(offset, there), data.begin());
  std::ranges::fill(data.subspan(there), std::byte{0xff});
  return {};
}

Result<std::size_t> Regions::read(std::uint32_t index, std::uint64_t offset,
                                  std::span<std::byte> data) {
  const auto size = clip(index, offset, data.size());
  if (!size) return size;
  data = data.first(*size);
  if (index == VFIO_PCI_ROM_REGION_INDEX) {
    if (auto done = read_rom(offset, data); !done) return std::unexpected(done.error());
    return size;
  }
  const Range table = excluded(index);
  while (!data.empty()) {
    std::size_t run = data.size();
    if (offset >= table.begin && offset < table.end) {
      run = std::min<std::uint64_t>(run, table.end - offset);
      std::ranges::fill(data.first(run), std::byte{0xff});
    } else {
      if (offset < table.begin) run = std::min<std::uint64_t>(run, table.begin - offset);
      if (index == VFIO_PCI_VGA_REGION_INDEX) run = pci::access_width(offset, run);
      if (auto done = function_.bar_read(index, offset, data.first(run)); !done) {
        return std::unexpected(done.error());
      }
    }
    offset += run;
    data = data.subspan(run);
  }
  return size;
}

Result<std::size_t> Regions::write(std::uint32_t index, std::uint64_t offset,
                                   std::span<const std::byte> data) {
  if (index == VFIO_PCI_ROM_REGION_INDEX) return fail(EINVAL);
  const auto size = clip(index, offset, data.size());
  if (!size) return size;
  data = data.first(*size);
  const Range table = excluded(index);
  while (!data.empty()) {
    std::size_t run = data.size();
    if (offset >= table.begin && offset < table.end) {
      run = std::min<std::uint64_t>(run, table.end - offset);
    } else {
      if (offset < table.begin) run = std::min<std::uint64_t>(run, table.begin - offset);
      if (index == VFIO_PCI_VGA_REGION_INDEX) run = pci::access_width(offset, run);
      if (auto done = function_.bar_write(index, offset, data.first(run)); !done) {
        return std::unexpected(done.error());
      }
    }
    offset += run;
    data = data.subspan(run);
  }
  return size;
}

}  // namespace uvfio::vfio_pci
