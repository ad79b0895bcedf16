// Errors: a kernel errno in a type of its own, carried by std::expected.
#pragma once

#include <cerrno>
#include <expected>

namespace uvfio {

// A positive errno value. Everything that a VFIO client can see fails with one, because the errno
// *is* the interface; which one, and in which order, is decided by the kernel's behaviour.
enum class Errno : int {};

template <typename T>
using Result = std::expected<T, Errno>;
using Status = Result<void>;

[[nodiscard]] constexpr std::unexpected<Errno> fail(int error) {
  return std::unexpected(Errno{error});
}

[[nodiscard]] constexpr int value(Errno error) { return static_cast<int>(error); }

}  // namespace uvfio
