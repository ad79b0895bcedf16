// The tables of a topology file that are about PCI functions and IOMMU units.
#pragma once

#include <string_view>

#include <toml++/toml.h>

#include "launcher/failure.h"
#include "launcher/topology.h"

namespace uvfio::launcher {

// A failure at the place of `node` in the file.
template <typename... Args>
[[nodiscard]] std::unexpected<std::string> failure_at(std::string_view file, const toml::node& node,
                                                      fmt::format_string<Args...> format,
                                                      Args&&... args) {
  return failure("{}:{}: {}", file, node.source().begin.line,
                 fmt::format(format, std::forward<Args>(args)...));
}

// `file` is for messages.
[[nodiscard]] Outcome<PciRequest> parse_pci_table(const toml::table& table, std::string_view file);
[[nodiscard]] Outcome<iommu::UnitProperties> parse_iommu_table(const toml::table& table,
                                                               std::string_view file);

}  // namespace uvfio::launcher
