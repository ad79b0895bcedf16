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

// Runs the program and returns the exit status (program.h). What fails in uvfio itself is said on
// standard error. Call it once, from a process with one thread; it moves the process into another
// mount namespace.
[[nodiscard]] int run(const RunOptions& options);

}  // namespace uvfio::launcher
