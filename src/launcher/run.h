// `uvfio run`: one program with a host of its own.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launcher/failure.h"
#include "launcher/models.h"
#include "launcher/topology.h"

namespace uvfio::launcher {

// Where the program finds its server's state (src/inspect), from the root directory.
inline constexpr const char* kStateFile = "sys/kernel/uvfio/state";

struct RunOptions {
  Topology topology;
  ModelSettings models;
  bool passthrough = true;           // mmap of device regions
  std::vector<std::string> command;  // program and arguments, not empty
};

// Runs the program and returns the exit status (program.h). What fails in uvfio itself is said on
// standard error. Call it once, from a process with one thread; it moves the process into another
// mount namespace.
[[nodiscard]] int run(const RunOptions& options);

}  // namespace uvfio::launcher
