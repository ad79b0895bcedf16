// UUIDs as mediated devices use them (the kernel's guid_t).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "uvfio/error.h"

namespace uvfio {

class Uuid {
 public:
  // 36 characters, 8-4-4-4-12 hexadecimal digits of either case; EINVAL otherwise.
  [[nodiscard]] static Result<Uuid> parse(std::string_view text);
  // A random (version 4) UUID.
  [[nodiscard]] static Uuid random();

  // Lower case, 36 characters.
  [[nodiscard]] std::string to_string() const;

  auto operator<=>(const Uuid&) const = default;

 private:
  std::array<std::uint8_t, 16> bytes_{};
};

}  // namespace uvfio
