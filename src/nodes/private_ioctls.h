// Our own questions to ourselves: what is open behind a descriptor?
#pragma once

#include <sys/ioctl.h>

#include <memory>
#include <mutex>

#include "nodes/self_client.h"
#include "nodes/tree.h"
#include "uvfio/error.h"
#include "uvfio/fd.h"

struct fuse_req;

namespace uvfio::nodes {

class Handle;

// They count only when the asking thread is one of ours, which the kernel vouches for; from anybody
// else they are ordinary unknown ioctls.
inline constexpr unsigned kIdentify = _IO('u', 0xf1);
inline constexpr unsigned kPill = _IO('u', 0xf2);  // and the worker that answers it ends

// Both ends of these ioctls. Thread-safe.
class PrivateIoctls {
 public:
  explicit PrivateIoctls(SelfClient& self) : self_(self) {}

  // Makes one on `fd`, one of our own files: what is open behind it, nullptr for what is no device
  // node. Waits for a worker to answer.
  [[nodiscard]] Result<std::shared_ptr<OpenNode>> ask(const Fd& fd, unsigned command);

  // For the worker. False: it is somebody else's ioctl, and not answered.
  [[nodiscard]] bool answer(fuse_req* request, unsigned command, const Handle& handle);

 private:
  struct Question {
    std::shared_ptr<OpenNode> answer;
  };

  SelfClient& self_;
  std::mutex mutex_;
  Question* question_ = nullptr;  // asked by self_ now
};

}  // namespace uvfio::nodes
