// What a user sets of the type1 IOMMU backend (uvfio/type1_parameters.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <toml++/toml.h>

#include "launcher/failure.h"
#include "uvfio/host.h"

namespace uvfio::launcher {

struct Type1Setting {
  std::string name;
  std::string value;
  std::string origin;  // FILE:LINE, for messages; empty: an option
};

// NAME=VALUE; apply() finds out whether they are known.
[[nodiscard]] Outcome<Type1Setting> parse_type1_setting(std::string_view text);

// The table [type1] of a topology file; `file` is for messages.
[[nodiscard]] Outcome<std::vector<Type1Setting>> parse_type1_table(const toml::table& table,
                                                                   std::string_view file);

// In order: the last of a name counts. Stops at the first that is not possible.
[[nodiscard]] Outcome<void> apply(const std::vector<Type1Setting>& settings, Host& host);

}  // namespace uvfio::launcher
