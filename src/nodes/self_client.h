// The one thread of the server that is a client of its own file system.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <string>
#include <thread>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::nodes {

// A thread that waits for an answer from its own process is stuck when the process is killed:
// nobody is left to answer, and the connection is aborted only when the last descriptor of
// /dev/fuse is closed - which this thread, not able to exit, would keep open. So it has a table of
// descriptors of its own, without those: the others exit, the connection dies, and with it the
// wait. Thread-safe; requests are made one at a time. Not for threads that serve requests.
class SelfClient {
 public:
  SelfClient() = default;
  ~SelfClient() { stop(); }
  SelfClient(const SelfClient&) = delete;

  // `root` is the mount's root. False: no thread, or no table of its own.
  [[nodiscard]] bool start(const Fd& root);
  // Ends the thread, and lets go of the root. No requests after it.
  void stop();
  // Whom requests come from, as the server sees it.
  [[nodiscard]] pid_t thread() const { return thread_id_; }

  // Held over what prepares a request, the request, and what looks at its result.
  [[nodiscard]] std::unique_lock<std::mutex> turn() { return std::unique_lock(turn_); }

  // openat(root, path, flags | O_CLOEXEC). With the turn.
  [[nodiscard]] Result<Fd> open(const std::string& path, int flags);
  // ioctl(fd, command, 0), for one that returns 0. With the turn.
  [[nodiscard]] Status ioctl(const Fd& fd, unsigned command);

 private:
  struct Request;
  struct Answer;
  void run(int root, int socket);
  Result<Fd> ask(const Request& request, const Fd* fd);

  std::mutex turn_;
  Fd socket_;  // our end
  pid_t thread_id_ = 0;
  std::thread thread_;
};

}  // namespace uvfio::nodes
