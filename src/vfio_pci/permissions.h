// What a client sees and may change of each capability (perm_bits in vfio_pci_config.c): the
// tables, and how long a capability is.
#pragma once

#include <cstdint>
#include <span>

#include "vfio_pci/hardware_config.h"

namespace uvfio::vfio_pci {

// Bits of one register. A virtual bit is kept by the driver and never reaches the hardware; the
// others are the hardware's. Those that are not writable keep their value.
struct RegisterPermission {
  std::uint8_t offset = 0;  // in the capability
  std::uint8_t width = 0;   // bytes
  std::uint32_t virtual_bits = 0;
  std::uint32_t writable = 0;
};

// Writes that mean more than a change of bits.
enum class Trap : std::uint8_t {
  none,
  header,            // decode, INTx disable, BARs
  power_management,  // state
  vital_product_data,
  express,            // function level reset, read request size
  advanced_features,  // function level reset
  msi,                // enable, queue size
};

// How a capability is passed through. Its header (id and next pointer) is always virtual and
// read-only, so that capabilities can be taken out of the list.
struct CapabilityPermission {
  std::uint16_t id = 0;
  std::uint16_t length = 0;  // bytes; 0: hidden; kVariable: capability_length() knows
  bool raw_writes = false;   // the rest is the hardware's, writable
  std::span<const RegisterPermission>
      registers{};  // else these, and the rest is the hardware's, read-only
  Trap trap = Trap::none;
};
inline constexpr std::uint16_t kVariableLength = 0xffff;

// Of the type 0 header; of an MSI capability with this message control register.
[[nodiscard]] std::span<const RegisterPermission> header_permissions();
[[nodiscard]] std::span<const RegisterPermission> msi_permissions(std::uint16_t control);
// Of a standard or an extended capability; nullptr: hidden.
[[nodiscard]] const CapabilityPermission* find_permission(bool extended, std::uint16_t id);

// Bytes that the capability at `position` takes, from what its registers say. 0: nothing that can
// be shown.
[[nodiscard]] std::uint16_t capability_length(HardwareConfig& hardware, bool extended,
                                              const CapabilityPermission& capability,
                                              std::uint16_t position);

}  // namespace uvfio::vfio_pci
