// Identify data structures (section 5.15).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "devices/nvme/io_commands.h"

namespace uvfio::nvme {

inline constexpr std::size_t kIdentifySize = 4096;
using IdentifyData = std::array<std::byte, kIdentifySize>;

// Figure 244, the values of CNS.
enum class Cns : std::uint8_t {
  name_space = 0x00,
  controller = 0x01,
  active_namespaces = 0x02,
  namespace_descriptors = 0x03,
};

inline constexpr unsigned kAbortLimit = 4;         // ACL + 1
inline constexpr unsigned kEventRequestLimit = 4;  // AERL + 1

// What makes one controller different from another.
struct Identity {
  std::string serial;  // 1 to 20 ASCII characters
  std::uint16_t pci_vendor = 0;
  std::uint16_t pci_subsystem_vendor = 0;
};

[[nodiscard]] IdentifyData identify_controller(const Identity& identity,
                                               const Namespaces& namespaces);
[[nodiscard]] IdentifyData identify_namespace(const Namespace& target);
// The fields that all namespaces have in common.
[[nodiscard]] IdentifyData identify_any_namespace();
// Ids above `after`, ascending.
[[nodiscard]] IdentifyData active_namespaces(const Namespaces& namespaces, std::uint32_t after);
[[nodiscard]] IdentifyData namespace_descriptors(const Namespace& target);

inline constexpr const char* kFirmwareRevision = "1.0";

// `text` in a field of ASCII, padded with blanks.
void put_text(std::span<std::byte> field, const std::string& text);

}  // namespace uvfio::nvme
