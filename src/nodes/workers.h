// The threads that read requests from /dev/fuse and serve them.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "nodes/close_watch.h"
#include "nodes/fair_share.h"
#include "nodes/tree.h"
#include "uvfio/fd.h"

struct fuse_buf;
struct fuse_session;

namespace uvfio::nodes {

// One descriptor of the FUSE connection. A request is answered on the channel it was read from.
struct Channel {
  Fd owned;
  int fd = -1;
};

// Grows by a thread whenever all are busy, up to a limit, and shrinks to a few. Each has a channel
// of its own (FUSE_DEV_IOC_CLONE), so that workers do not meet on one queue's lock.
//
// It also restores an order that FUSE loses. The kernel queues RELEASE when the last descriptor of
// a file is closed, but does not wait for it: what the client does next may be read by another
// worker and overtake it, so that a group that was just closed would still be busy. settle() closes
// the gap: on return, every RELEASE that was queued before the current request, and that the answer
// may depend on, has been served.
//
// No client gets all workers, see fair_share.h.
class WorkerPool {
 public:
  // `device` is owned by the session. Nothing is started.
  WorkerPool(fuse_session* session, int device, unsigned max_threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;

  // False when no thread can be had.
  [[nodiscard]] bool start();
  // Requests of this thread, one of our own, are served at once.
  void set_own_thread(pid_t thread) { own_thread_.store(thread, std::memory_order_relaxed); }
  // Ends the workers. `send_pill` makes one request to the connection that is answered by a worker
  // calling take_pill(); false when the connection is dead.
  void stop(const std::function<bool()>& send_pill);
  // The worker that calls this ends after its current request.
  static void take_pill();

  // The session's I/O: from and to the calling thread's channel.
  ssize_t receive(void* buffer, std::size_t size);
  ssize_t send(const iovec* pieces, int count);

  // For a reply from another thread than the one that read the request: `channel()` there, `Borrow`
  // here.
  [[nodiscard]] std::shared_ptr<Channel> channel() const;
  class Borrow {
   public:
    explicit Borrow(std::shared_ptr<Channel> channel);
    ~Borrow();
    Borrow(const Borrow&) = delete;

   private:
    std::shared_ptr<Channel> previous_;
  };

  // Must not be called while serving a RELEASE. Cheap unless somebody has closed a file meanwhile;
  // then it takes some microseconds for each idle worker.
  void settle(const Ties& ties);
  // Says what the RELEASE that this worker is about to serve has to do with; nobody waits for it
  // before.
  static void releases(const Ties& ties);
  [[nodiscard]] CloseWatch& closes() { return closes_; }

 private:
  struct Worker;

  bool spawn();
  void run(Worker& worker);
  void serve(Worker& worker, const fuse_buf& request);
  bool leave(Worker& worker, bool pill);

  fuse_session* const session_;
  const std::shared_ptr<Channel> main_;
  const unsigned max_threads_;

  CloseWatch closes_;
  std::atomic<int> idle_{0};
  std::atomic<pid_t> own_thread_{0};

  struct Waiting {  // a request that was read but has to wait
    std::vector<std::byte> data;
    std::shared_ptr<Channel> channel;
  };
  FairShare<Waiting> share_;

  std::mutex mutex_;
  std::condition_variable left_;
  bool stopping_ = false;
  std::vector<std::shared_ptr<Worker>> workers_;
  std::vector<std::thread> gone_;  // to be joined
};

}  // namespace uvfio::nodes
