// What clients ask and are told, for `-v -v`.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/log.h"
#include "uvfio/error.h"

namespace uvfio::nodes {

// Kinds of files; their ioctl numbers overlap.
enum class FileKind : std::uint8_t { container, group, device, stream };

// Writes one line: who asked what, and the answer. `thread` is the client's.
void log_request(FileKind kind, pid_t thread, std::uint32_t command, const Result<int>& result);

// The result itself, logged if anybody wants to know.
inline Result<int> traced(FileKind kind, pid_t thread, std::uint32_t command, Result<int> result) {
  if (spdlog::should_log(spdlog::level::debug)) [[unlikely]] {
    log_request(kind, thread, command, result);
  }
  return result;
}

}  // namespace uvfio::nodes
