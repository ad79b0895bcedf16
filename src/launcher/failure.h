// How the launcher's parts fail: with one sentence for the user.
#pragma once

#include <fmt/format.h>

#include <cstring>
#include <expected>
#include <string>

namespace uvfio::launcher {

// What went wrong and, where there is one, the remedy. Shown as it is.
template <typename T>
using Outcome = std::expected<T, std::string>;

template <typename... Args>
[[nodiscard]] std::unexpected<std::string> failure(fmt::format_string<Args...> format,
                                                   Args&&... args) {
  return std::unexpected(fmt::format(format, std::forward<Args>(args)...));
}

// `message` with the place in a file that it is about, if there is one.
[[nodiscard]] inline std::unexpected<std::string> failure_from(const std::string& origin,
                                                               const std::string& message) {
  return origin.empty() ? failure("{}", message) : failure("{}: {}", origin, message);
}

}  // namespace uvfio::launcher
