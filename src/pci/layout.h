// Where things are: the regions of a vfio-pci device in its file, and the registers of a type 0
// configuration header.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace uvfio::pci {

// Every region has 1 TiB of the device file (VFIO_PCI_OFFSET_SHIFT).
inline constexpr unsigned kRegionShift = 40;

[[nodiscard]] constexpr std::uint64_t region_offset(std::uint32_t index) {
  return std::uint64_t{index} << kRegionShift;
}

// A position of the device file as region and place in the region.
struct RegionPosition {
  std::uint32_t index = 0;  // VFIO_PCI_*_REGION_INDEX, or beyond
  std::uint64_t offset = 0;
};

[[nodiscard]] constexpr RegionPosition split_position(std::uint64_t position) {
  return {.index = static_cast<std::uint32_t>(position >> kRegionShift),
          .offset = position & (region_offset(1) - 1)};
}

// How many of the next `left` bytes one access of a bus takes: the largest power of two that fits,
// is naturally aligned at `position` and is at most `widest`. `left` is not 0.
[[nodiscard]] constexpr std::size_t access_width(std::uint64_t position, std::uint64_t left,
                                                 std::size_t widest = 4) {
  const std::uint64_t alignment = position | widest;
  return std::min<std::uint64_t>(std::bit_floor(left), alignment & -alignment);
}

// Offsets in configuration space (PCI 3.0, 6.1).
enum class ConfigRegister : std::uint16_t {
  vendor_id = 0x00,
  device_id = 0x02,
  command = 0x04,
  status = 0x06,
  revision_id = 0x08,
  programming_interface = 0x09,
  class_code = 0x0a,
  cache_line_size = 0x0c,
  latency_timer = 0x0d,
  header_type = 0x0e,
  bar0 = 0x10,
  subsystem_vendor_id = 0x2c,
  subsystem_id = 0x2e,
  rom = 0x30,
  capabilities = 0x34,
  interrupt_line = 0x3c,
  interrupt_pin = 0x3d,
};

[[nodiscard]] constexpr std::uint16_t offset_of(ConfigRegister reg) {
  return static_cast<std::uint16_t>(reg);
}

// Bits of the command and status registers (PCI 3.0, 6.2.2 and 6.2.3).
inline constexpr std::uint16_t kCommandIo = 1 << 0;
inline constexpr std::uint16_t kCommandMemory = 1 << 1;
inline constexpr std::uint16_t kCommandMaster = 1 << 2;
inline constexpr std::uint16_t kCommandIntxDisable = 1 << 10;
inline constexpr std::uint16_t kStatusInterrupt = 1 << 3;
inline constexpr std::uint16_t kStatusCapabilities = 1 << 4;
inline constexpr std::uint16_t kStatusDevselMedium = 1 << 9;

}  // namespace uvfio::pci
