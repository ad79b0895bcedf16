#include "pci/config_space.h"

#include <algorithm>
#include <cassert>

namespace uvfio::pci {
namespace {

// Byte `index` of a value in memory order; configuration space is little-endian.
constexpr std::byte byte_of(std::uint32_t value, unsigned index) {
  return static_cast<std::byte>(value >> (8 * index));
}

}  // namespace

ConfigSpace::ConfigSpace(std::size_t size, std::span<const ConfigField> fields)
    : values_(size), writable_(size), clearable_(size) {
  for (const ConfigField& field : fields) declare(field);
}

void ConfigSpace::declare(const ConfigField& field) {
  assert(field.width <= 4 && contains(field.offset, field.width));
  set(field.offset, field.width, field.value);
  for (unsigned i = 0; i < field.width; ++i) {
    writable_[field.offset + i] = byte_of(field.writable, i);
    clearable_[field.offset + i] = byte_of(field.clearable, i);
  }
}

void ConfigSpace::declare(std::uint16_t offset, std::string_view bytes) {
  assert(contains(offset, bytes.size()));
  std::ranges::copy(std::as_bytes(std::span(bytes)), values_.begin() + offset);
}

std::uint32_t ConfigSpace::get(std::uint64_t offset, std::uint8_t width) const {
  assert(width <= 4 && contains(offset, width));
  std::uint32_t value = 0;
  for (unsigned i = 0; i < width; ++i) {
    value |= std::to_integer<std::uint32_t>(values_[offset + i]) << (8 * i);
  }
  return value;
}

void ConfigSpace::set(std::uint64_t offset, std::uint8_t width, std::uint32_t value) {
  assert(width <= 4 && contains(offset, width));
  for (unsigned i = 0; i < width; ++i) values_[offset + i] = byte_of(value, i);
}

Status ConfigSpace::read(std::uint64_t offset, std::span<std::byte> data) const {
  if (!contains(offset, data.size())) return fail(EFAULT);
  std::ranges::copy(std::span(values_).subspan(offset, data.size()), data.begin());
  return {};
}

Status ConfigSpace::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (!contains(offset, data.size())) return fail(EFAULT);
  for (std::size_t i = 0; i < data.size(); ++i) {
    const std::byte mask = writable_[offset + i];
    const std::byte cleared = clearable_[offset + i] & data[i];
    values_[offset + i] = ((values_[offset + i] & ~mask) | (data[i] & mask)) & ~cleared;
  }
  return {};
}

}  // namespace uvfio::pci
