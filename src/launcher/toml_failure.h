// Failures that name a place in a TOML file.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <toml++/toml.h>

#include "launcher/failure.h"

namespace uvfio::launcher {

// A failure at the place of `node` in the file.
template <typename... Args>
[[nodiscard]] std::unexpected<std::string> failure_at(std::string_view file, const toml::node& node,
                                                      fmt::format_string<Args...> format,
                                                      Args&&... args) {
  return failure("{}:{}: {}", file, node.source().begin.line,
                 fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace uvfio::launcher
