// The program's view of /dev and /sys: the machine's, with ours laid over it, in a mount namespace that
// nobody else sees and that goes with its last process.
#pragma once

#include "launcher/failure.h"
#include "uvfio/fd.h"

namespace uvfio::launcher {

// Moves this process into a mount namespace of its own; with a user namespace around it if that takes
// one (then the process keeps its user and group ids). Only while it has a single thread.
[[nodiscard]] Outcome<void> enter_mount_namespace();

// Lays the directories of `server_root`, a detached mount, over the machine's: dev/vfio over /dev/vfio,
// and sys/... over /sys/... . Only after enter_mount_namespace. `server_root` stays usable.
//
// What is wholly ours (class/mdev_bus, a directory of a device) changes as the server changes it. In
// directories that the machine has as well (class, bus, kernel/iommu_groups, ...) our entries are those
// of this moment, except that an empty directory of the machine becomes wholly ours.
[[nodiscard]] Outcome<void> overlay(const Fd& server_root);

}  // namespace uvfio::launcher
