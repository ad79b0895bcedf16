// Results as FUSE wants to be told them.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include "uvfio/error.h"

namespace uvfio::nodes {

// FUSE gives some errors a meaning of their own: ENOSYS says that a request is never to be made
// again, for any file.
inline int reply_value(Errno error) {
  const int number = value(error);
  if (number <= 0 || number >= 512) {
    return EIO;
  }
  return number == ENOSYS ? EOPNOTSUPP : number;
}

inline void reply_ioctl(fuse_req_t request, const Result<int>& result) {
  if (result) {
    fuse_reply_ioctl(request, *result, nullptr, 0);
  } else {
    fuse_reply_err(request, reply_value(result.error()));
  }
}

// `size`: what was to be written.
inline void reply_write(fuse_req_t request, const Result<std::size_t>& done, std::size_t size) {
  if (done) {
    fuse_reply_write(request, std::min(*done, size));
  } else {
    fuse_reply_err(request, reply_value(done.error()));
  }
}

}  // namespace uvfio::nodes
