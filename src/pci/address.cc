#include <fmt/format.h>

#include <charconv>

#include "uvfio/pci_bus.h"

namespace uvfio::pci {
namespace {

// The number before `end`, of exactly `digits` hexadecimal digits and at most `most`; takes both
// off `text`. At the end of the text `end` is 0.
std::optional<unsigned> take(std::string_view& text, std::size_t digits, char end, unsigned most) {
  const std::size_t length = digits + (end != 0 ? 1 : 0);
  if (text.size() < length || (end != 0 && text[digits] != end)) return std::nullopt;
  unsigned number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + digits, number, 16);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + digits || number > most) {
    return std::nullopt;
  }
  text.remove_prefix(length);
  return number;
}

}  // namespace

std::optional<Address> Address::parse(std::string_view text) {
  std::optional<unsigned> segment = 0;
  if (text.size() > 7) segment = take(text, 4, ':', 0xffff);
  const auto bus = take(text, 2, ':', 0xff);
  const auto device = take(text, 2, '.', 31);
  const auto function = take(text, 1, 0, 7);
  if (!segment || !bus || !device || !function || !text.empty()) return std::nullopt;
  return Address{.segment = static_cast<std::uint16_t>(*segment),
                 .bus = static_cast<std::uint8_t>(*bus),
                 .device = static_cast<std::uint8_t>(*device),
                 .function = static_cast<std::uint8_t>(*function)};
}

std::string Address::to_string() const {
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", segment, bus, device, function);
}

}  // namespace uvfio::pci
