// What a host looks like inside, for people and programs that look for a fault.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "uvfio/host.h"

namespace uvfio::inspect {

// Containers with their domains, mappings and pins; groups and devices; accounts; IOMMU units and
// their faults. Each part is of one moment, the whole is not. Addresses and sizes are strings
// ("0x1000"), because not every reader of JSON has integers of 64 bits. The layout is in uvfio(1).
[[nodiscard]] nlohmann::ordered_json to_json(Host& host);

// The same as text, from the JSON.
[[nodiscard]] std::string to_text(const nlohmann::ordered_json& state);
// Only the faults of IOMMU units.
[[nodiscard]] std::string faults_to_text(const nlohmann::ordered_json& state);

}  // namespace uvfio::inspect
