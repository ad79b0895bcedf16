// A configuration space as a list of fields: each has a value and says which of its bits can be
// written or cleared. Side effects of writes are its owner's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pci/layout.h"
#include "uvfio/error.h"

namespace uvfio::pci {

struct ConfigField {
  std::uint16_t offset = 0;
  std::uint8_t width = 0;       // bytes: 1, 2 or 4
  std::uint32_t value = 0;      // after construction
  std::uint32_t writable = 0;   // bits that a client can change
  std::uint32_t clearable = 0;  // bits that a client clears by writing ones to them
};

[[nodiscard]] constexpr ConfigField read_only(ConfigRegister reg, std::uint8_t width,
                                              std::uint32_t value) {
  return {.offset = offset_of(reg), .width = width, .value = value};
}

[[nodiscard]] constexpr ConfigField read_write(ConfigRegister reg, std::uint8_t width,
                                               std::uint32_t value = 0) {
  return {.offset = offset_of(reg), .width = width, .value = value, .writable = 0xffff'ffff};
}

// Base address register `index` for `size` bytes of I/O space; a power of two, at least 4. Sizing
// needs nothing more than this: the address bits below the size cannot be written, so they read 0
// when a client has written all ones.
[[nodiscard]] constexpr ConfigField io_bar(unsigned index, std::uint32_t size) {
  return {.offset = static_cast<std::uint16_t>(offset_of(ConfigRegister::bar0) + 4 * index),
          .width = 4,
          .value = 1,  // I/O space indicator
          .writable = ~(size - 1)};
}

// Not thread-safe: the device model has a lock of its own. Copies are snapshots.
class ConfigSpace {
 public:
  // Bytes that belong to no field read 0 and cannot be written. `size` is 256 or 4096.
  explicit ConfigSpace(std::size_t size, std::span<const ConfigField> fields = {});

  // For models: adds a field, or read-only bytes. They lie inside the space.
  void declare(const ConfigField& field);
  void declare(std::uint16_t offset, std::string_view bytes);
  // For models: a register's value, whatever clients may write.
  [[nodiscard]] std::uint32_t get(std::uint64_t offset, std::uint8_t width) const;
  void set(std::uint64_t offset, std::uint8_t width, std::uint32_t value);

  // For clients. EFAULT, and nothing done, when any byte lies outside (vfio_pci_config_rw_single).
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> data) const;
  [[nodiscard]] Status write(std::uint64_t offset, std::span<const std::byte> data);

 private:
  [[nodiscard]] bool contains(std::uint64_t offset, std::size_t size) const {
    return offset <= values_.size() && size <= values_.size() - offset;
  }

  std::vector<std::byte> values_;
  std::vector<std::byte> writable_;
  std::vector<std::byte> clearable_;
};

}  // namespace uvfio::pci
