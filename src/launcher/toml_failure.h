// Failures that name a place in a TOML file.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <toml++/toml.h>

#include "launcher/failure.h"

namespace uvfio::launcher {

// FILE:LINE.
[[nodiscard]] inline std::string origin_of(const toml::node& node, std::string_view file) {
  return fmt::format("{}:{}", file, node.source().begin.line);
}

// A failure at the place of `node` in the file.
template <typename... Args>
[[nodiscard]] std::unexpected<std::string> failure_at(std::string_view file, const toml::node& node,
                                                      fmt::format_string<Args...> format,
                                                      Args&&... args) {
  return failure("{}: {}", origin_of(node, file), fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace uvfio::launcher
