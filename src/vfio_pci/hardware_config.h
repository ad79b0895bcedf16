// The configuration space of the hardware, as the driver of a function reaches it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace uvfio::vfio_pci {

// Accesses are naturally aligned and of 1, 2 or 4 bytes; values are little-endian numbers. Beyond
// the end, reads are all ones and writes lost. Thread-safe.
class HardwareConfig {
 public:
  virtual ~HardwareConfig() = default;
  [[nodiscard]] virtual std::size_t size() const = 0;  // 256 or 4096
  [[nodiscard]] virtual std::uint32_t read(std::uint16_t offset, unsigned width) = 0;
  virtual void write(std::uint16_t offset, unsigned width, std::uint32_t value) = 0;
};

}  // namespace uvfio::vfio_pci
