// Is a model's description a function that PCI allows?
#pragma once

#include <optional>
#include <string>

#include "uvfio/pci.h"

namespace uvfio::pci {

// The first mistake, as half a sentence; nullopt: none. Whether the capabilities fit is for
// config_map.h to find out.
[[nodiscard]] std::optional<std::string> find_mistake(const Description& description);

}  // namespace uvfio::pci
