// The seccomp filter that hands the ioctls which return a descriptor to the supervisor.
#pragma once

#include "launcher/failure.h"
#include "uvfio/fd.h"

namespace uvfio::launcher {

// Installs the filter in this process (single-threaded, about to exec) and returns its listener.
// All other system calls, and other ioctls, are left alone.
[[nodiscard]] Outcome<Fd> load_notify_filter();

}  // namespace uvfio::launcher
