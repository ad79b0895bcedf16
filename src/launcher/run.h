// `uvfio run`: one program with a host of its own.
#pragma once

#include <string>
#include <vector>

#include "launcher/topology.h"

namespace uvfio::launcher {

struct RunOptions {
  Topology topology;
  bool passthrough = true;           // mmap of device regions
  std::vector<std::string> command;  // program and arguments, not empty
};

// Exit statuses of `uvfio run` other than the program's own.
inline constexpr int kExitFailed = 125;  // uvfio itself
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;
inline constexpr int kExitSignal = 128;  // plus the number of the signal that ended the program

// Runs the program and returns the exit status. What fails in uvfio itself is said on standard
// error. Call it from a process with one thread; it moves the process into another mount namespace.
[[nodiscard]] int run(const RunOptions& options);

}  // namespace uvfio::launcher
