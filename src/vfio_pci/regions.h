// The BARs, the ROM and the VGA ranges of a function as regions of a device file
// (vfio_pci_rdwr.c).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pci/function.h"
#include "uvfio/device.h"

namespace uvfio::vfio_pci {

// Bytes of an expansion ROM that belong to its images, as their headers say (PCI
// Firmware 3.0, 5.1); 0: there is no valid image.
[[nodiscard]] std::size_t rom_image_size(std::span<const std::byte> rom);

// Regions other than the configuration space. Thread-safe.
class Regions {
 public:
  // `function` outlives this.
  explicit Regions(pci::Function& function);

  // EINVAL: no such region.
  [[nodiscard]] Result<vfio::RegionInfo> info(std::uint32_t index) const;
  // Bytes done, fewer at the end of a region. EINVAL: no such region, beyond its end, or a write to
  // the ROM. EIO: memory is not decoded. Bytes of the MSI-X table read ones; writes to them are
  // dropped.
  [[nodiscard]] Result<std::size_t> read(std::uint32_t index, std::uint64_t offset,
                                         std::span<std::byte> data);
  [[nodiscard]] Result<std::size_t> write(std::uint32_t index, std::uint64_t offset,
                                          std::span<const std::byte> data);

  // Does [offset, offset + size) of a BAR touch the MSI-X table?
  [[nodiscard]] bool touches_msix_table(unsigned bar, std::uint64_t offset,
                                        std::uint64_t size) const;

 private:
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  [[nodiscard]] vfio::RegionInfo bar_info(unsigned bar) const;
  // What of a BAR is not accessed; empty: all is.
  [[nodiscard]] Range excluded(unsigned bar) const;
  // How much of `size` bytes at `offset` lies inside the region. EINVAL: nothing.
  [[nodiscard]] Result<std::size_t> clip(std::uint32_t index, std::uint64_t offset,
                                         std::size_t size) const;
  [[nodiscard]] Status read_rom(std::uint64_t offset, std::span<std::byte> data);

  pci::Function& function_;
  const std::size_t rom_image_;
};

}  // namespace uvfio::vfio_pci
