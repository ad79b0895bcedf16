// Answers the ioctls that return a descriptor, which FUSE cannot: it finds out which of our files
// the client means, does the ioctl through uapi, and puts the new descriptor into the client.
#pragma once

#include <linux/seccomp.h>

#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "nodes/fair_share.h"
#include "nodes/server.h"
#include "uvfio/fd.h"

namespace uvfio::launcher {

class Supervisor {
 public:
  // Serves the seccomp `listener` on threads of its own. `server` outlives the supervisor.
  Supervisor(nodes::Server& server, Fd listener);
  // Stops; calls that wait get ENOSYS from the kernel, since nobody listens any more.
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;

 private:
  class Call;
  void work();
  bool receive(seccomp_notif& notification);
  void start_worker_locked();
  nodes::OpenFile file_of(const Call& call);
  std::optional<Result<int>> handle(Call& call);
  void serve(const seccomp_notif& notification);

  static constexpr unsigned kMaxWorkers = 32;

  nodes::Server& server_;
  nodes::FairShare<seccomp_notif> share_{kMaxWorkers - 2};  // some wait for the next call
  Fd listener_;
  EventFd stop_;
  std::mutex receive_mutex_;  // held while waiting for a call
  std::mutex mutex_;          // guards the rest
  unsigned idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace uvfio::launcher
