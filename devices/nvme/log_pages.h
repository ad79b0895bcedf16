// Log pages (section 5.14).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "devices/nvme/features.h"
#include "devices/nvme/health.h"

namespace uvfio::nvme {

// Figure 192
enum class LogPage : std::uint8_t {
  errors = 0x01,
  health = 0x02,
  firmware_slots = 0x03,
  changed_namespaces = 0x04,
  effects = 0x05,
};

[[nodiscard]] std::vector<std::byte> error_page(const ErrorLog& errors);
[[nodiscard]] std::vector<std::byte> health_page(const Health& health, const ErrorLog& errors,
                                                 const Features& features);
[[nodiscard]] std::vector<std::byte> firmware_page();
[[nodiscard]] std::vector<std::byte> changed_namespaces_page(const std::set<std::uint32_t>& ids);
[[nodiscard]] std::vector<std::byte> effects_page();

}  // namespace uvfio::nvme
