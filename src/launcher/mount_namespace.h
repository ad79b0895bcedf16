// The program's view of /dev and /sys: the machine's, with ours laid over it, in a mount namespace
// that nobody else sees and that goes with its last process.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "launcher/failure.h"
#include "uvfio/fd.h"

namespace uvfio::launcher {

// Moves this process into a mount namespace of its own; with a user namespace around it if that
// takes one (then the process keeps its user and group ids). Only while it has a single thread.
[[nodiscard]] Outcome<void> enter_mount_namespace();

// Lays the directories of `server_root`, a detached mount, over the machine's: dev/vfio over
// /dev/vfio, and sys/... over /sys/... . Only after enter_mount_namespace. `server_root` stays
// usable.
//
// A directory of which the machine has nothing, or nothing in it, is shown as it is: it changes as
// the server changes it. So do the live directories below. Any other directory that both have
// (class, bus, devices/virtual) gets the entries that both have at this moment.
[[nodiscard]] Outcome<void> overlay(const Fd& server_root);

// An entry of the machine in a live directory: one of ours that gets new entries whenever a device
// is made, which a bind mount for each of today's entries would not show. Such a directory is shown
// as it is, and the server lends each of the machine's entries a place in it: a link as it is, a
// directory as an empty one that overlay() mounts the machine's on.
struct MachineEntry {
  std::string path;         // below /sys
  std::string link_target;  // empty: a directory
};
// `roots`: directories of PCI root buses that the server shows, such as "devices/pci0000:00".
[[nodiscard]] std::vector<MachineEntry> machine_entries(const std::set<std::string>& roots = {});

}  // namespace uvfio::launcher
