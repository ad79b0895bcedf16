// From a description to a configuration space: the header, the capabilities, and where they are.
#pragma once

#include <cstdint>

#include "pci/config_space.h"
#include "uvfio/error.h"
#include "uvfio/pci.h"

namespace uvfio::pci {

// Where the registers of a function are that depend on its description. Capabilities by their
// offset; 0: the function has none.
struct ConfigMap {
  std::uint16_t size = 256;  // of the space: 256 or 4096 bytes
  std::uint8_t power_management = 0;
  std::uint8_t msi = 0;
  std::uint8_t msix = 0;
  std::uint8_t pcie = 0;
  std::uint64_t rom_size = 0;  // of the ROM BAR: a power of two; 0: no ROM
};

// EINVAL, said in the log: the description contradicts itself or PCI.
[[nodiscard]] Result<ConfigMap> check_and_map(const Description& description);
// The space after power-on. `map` is that of the same description.
[[nodiscard]] ConfigSpace make_config_space(const Description& description, const ConfigMap& map);

}  // namespace uvfio::pci
