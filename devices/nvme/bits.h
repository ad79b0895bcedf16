// Bit fields, written as in the standard: Bits<last, first>.
#pragma once

#include <bit>
#include <cstdint>

namespace uvfio::nvme {

static_assert(std::endian::native == std::endian::little,
              "the device's structures are little-endian");

template <unsigned kLast, unsigned kFirst = kLast>
struct Bits {
  static_assert(kFirst <= kLast && kLast < 64);
  static constexpr std::uint64_t kMask = (~std::uint64_t{0} >> (63 - kLast + kFirst)) << kFirst;

  [[nodiscard]] static constexpr std::uint32_t get(std::uint64_t word) {
    return static_cast<std::uint32_t>((word & kMask) >> kFirst);
  }
  // `value` in the field's place; what does not fit is cut off.
  [[nodiscard]] static constexpr std::uint64_t put(std::uint64_t value) {
    return (value << kFirst) & kMask;
  }
};

}  // namespace uvfio::nvme
