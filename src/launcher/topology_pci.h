// The tables of a topology file that are about PCI functions and IOMMU units.
#pragma once

#include <string_view>

#include <toml++/toml.h>

#include "launcher/failure.h"
#include "launcher/topology.h"

namespace uvfio::launcher {

// `file` is for messages.
[[nodiscard]] Outcome<PciRequest> parse_pci_table(const toml::table& table, std::string_view file);
[[nodiscard]] Outcome<iommu::UnitProperties> parse_iommu_table(const toml::table& table,
                                                               std::string_view file);

}  // namespace uvfio::launcher
