// Ranges of addresses.
#pragma once

#include <cstdint>

namespace uvfio::iommu::type1 {

// Does a range of `size` bytes from `start` leave the 64-bit space? `size` is not 0.
[[nodiscard]] constexpr bool wraps(std::uint64_t start, std::uint64_t size) {
  return start + (size - 1) < start;
}

}  // namespace uvfio::iommu::type1
