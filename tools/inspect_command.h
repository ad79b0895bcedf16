// `uvfio inspect` and `uvfio faults`: a look into a running server.
#pragma once

#include <optional>

namespace uvfio::tools {

enum class InspectFormat { text, json, faults };

// Prints the state of the server that `pid` (of `uvfio run`, or of a program under it) belongs to;
// without a pid, of the one that this process runs under, or of the only one that there is. The
// exit status: 0, or 1 after a message.
[[nodiscard]] int inspect_command(std::optional<int> pid, InspectFormat format);

}  // namespace uvfio::tools
