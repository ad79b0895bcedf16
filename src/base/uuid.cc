#include "uvfio/uuid.h"

#include <sys/random.h>

#include <stdexcept>

namespace uvfio {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

constexpr bool dash_before_byte(std::size_t byte) {
  return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

}  // namespace

Result<Uuid> Uuid::parse(std::string_view text) {
  if (text.size() != 36) return fail(EINVAL);
  Uuid uuid;
  std::size_t at = 0;
  for (std::size_t byte = 0; byte < 16; ++byte) {
    if (dash_before_byte(byte) && text[at++] != '-') return fail(EINVAL);
    const int high = hex_digit(text[at++]);
    const int low = hex_digit(text[at++]);
    if (high < 0 || low < 0) return fail(EINVAL);
    uuid.bytes_[byte] = static_cast<std::uint8_t>(high << 4 | low);
  }
  return uuid;
}

Uuid Uuid::random() {
  Uuid uuid;
  if (getrandom(uuid.bytes_.data(), uuid.bytes_.size(), 0) != 16) {
    throw std::runtime_error("getrandom() failed");
  }
  uuid.bytes_[6] =
      static_cast<std::uint8_t>((uuid.bytes_[6] & 0x0f) | 0x40);  // RFC 4122: version 4
  uuid.bytes_[8] =
      static_cast<std::uint8_t>((uuid.bytes_[8] & 0x3f) | 0x80);  // RFC 4122: variant 1
  return uuid;
}

std::string Uuid::to_string() const {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (std::size_t byte = 0; byte < 16; ++byte) {
    if (dash_before_byte(byte)) text += '-';
    text += digits[bytes_[byte] >> 4];
    text += digits[bytes_[byte] & 0xf];
  }
  return text;
}

}  // namespace uvfio
