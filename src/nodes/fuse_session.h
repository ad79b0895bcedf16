// The FUSE connection: the mount, libfuse's session on it, INIT, and the workers that serve it.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <functional>
#include <memory>
#include <string>

#include "nodes/mount.h"
#include "nodes/passthrough.h"
#include "nodes/workers.h"
#include "uvfio/fd.h"

struct fuse_conn_info;
struct fuse_session;

namespace uvfio::nodes {

class FuseOperations;

// Requests go to a FuseOperations, on threads of the session. Is libfuse's user data.
class FuseSession {
 public:
  FuseSession(bool passthrough, unsigned max_threads)
      : passthrough_wanted_(passthrough), max_threads_(max_threads), passthrough_(passthrough) {}
  ~FuseSession() { close(); }
  FuseSession(const FuseSession&) = delete;

  // Mounts and serves. The error says what is missing and what to do about it.
  [[nodiscard]] std::string start(FuseOperations& operations);
  // Ends the workers, see WorkerPool::stop. Without pills it takes the end of the mount to end
  // them.
  void stop_workers(const std::function<bool()>& send_pill);
  // Ends the connection. What still runs must not need it any more.
  void close();

  // Directory of the detached mount (O_PATH).
  [[nodiscard]] const Fd& root() const { return mount_.root; }
  [[nodiscard]] Passthrough& passthrough() { return passthrough_; }
  // Once started.
  [[nodiscard]] WorkerPool& workers() { return *workers_; }
  [[nodiscard]] FuseOperations& operations() { return *operations_; }

 private:
  // Gives the mount's device to a new session of libfuse.
  std::string open();
  // Serves INIT on this thread. False: the kernel does not agree.
  bool negotiate();
  static void init(fuse_conn_info* connection);

  // libfuse's I/O.
  ssize_t receive(void* buffer, std::size_t size);
  ssize_t send(iovec* pieces, int count);

  const bool passthrough_wanted_;
  const unsigned max_threads_;
  FuseOperations* operations_ = nullptr;
  DetachedMount mount_;
  Passthrough passthrough_;
  fuse_session* session_ = nullptr;
  std::unique_ptr<WorkerPool> workers_;
  bool init_seen_ = false;
  bool init_unanswered_ = false;
};

}  // namespace uvfio::nodes
