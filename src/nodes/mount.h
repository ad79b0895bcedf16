// A FUSE mount that is attached to no path.
#pragma once

#include <expected>
#include <string>

#include "uvfio/fd.h"

namespace uvfio::nodes {

struct DetachedMount {
  Fd device;  // the connection's /dev/fuse
  Fd root;    // O_PATH directory; the mount lives as long as this, or what is bound from it
};

// Makes one, owned by the calling process, open to all users, permissions checked by the kernel.
// The first request (INIT) is already waiting on `device` on return. The error says what to do.
[[nodiscard]] std::expected<DetachedMount, std::string> mount_detached();

}  // namespace uvfio::nodes
