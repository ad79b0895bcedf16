// Asynchronous file I/O: one io_uring, used by one thread, that can be woken from others.
#pragma once

#include <liburing.h>
#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "uvfio/fd.h"

namespace uvfio::nvme {

// Told when an operation has ended: bytes or 0, or a negative errno.
class IoTarget {
 public:
  virtual void io_done(int result) = 0;

 protected:
  ~IoTarget() = default;
};

// Operations name their target, which stays until told; vectors stay as long. Everything but wake()
// belongs to one thread, the first that calls enter().
class Ring {
 public:
  // The reason in words when the kernel gives no io_uring.
  [[nodiscard]] static std::expected<std::unique_ptr<Ring>, std::string> create();
  ~Ring();
  Ring(const Ring&) = delete;

  // Called by the owning thread before anything else.
  void enter();

  void read(int fd, std::span<const iovec> data, std::uint64_t offset, IoTarget& target);
  // `durable`: on the medium before it completes (RWF_DSYNC). Others are copied to the page cache
  // by this thread, as long as that is quick: many file systems cannot begin such a write without
  // waiting, and io_uring would wake up a thread for each.
  void write(int fd, std::span<const iovec> data, std::uint64_t offset, bool durable,
             IoTarget& target);
  void sync_data(int fd, IoTarget& target);
  // The range reads as zeros afterwards; its space is given back.
  void punch_hole(int fd, std::uint64_t offset, std::uint64_t size, IoTarget& target);

  // For what needed no operation: `target` is told as if there had been one.
  void end(IoTarget& target, int result);

  // Operations begun and not ended, for their targets.
  [[nodiscard]] unsigned in_flight() const { return in_flight_; }

  // Begins what is queued and tells the targets of what has ended. Does not wait.
  void poll();
  // As poll, but sleeps until something has ended, wake() is called, `idle` says no, or the time is
  // over. `idle` is asked once wake() is sure to end the sleep.
  template <typename Idle>
  void wait(std::optional<std::chrono::nanoseconds> timeout, Idle&& idle) {
    asleep_.store(true);
    if (ended_.empty() && idle()) sleep(timeout);
    asleep_.store(false);
    reap();
  }

  // Ends a sleep. Thread-safe, cheap unless the owner sleeps.
  void wake();

 private:
  Ring() = default;
  io_uring_sqe* next_entry();
  void start(io_uring_sqe* entry, IoTarget& target);
  bool write_now(int fd, std::span<const iovec> data, std::uint64_t offset, IoTarget& target);
  void watch_wakeups();
  void sleep(std::optional<std::chrono::nanoseconds> timeout);
  void reap();

  io_uring ring_{};
  Fd wakeup_;
  std::uint64_t wakeup_count_ = 0;
  std::atomic<bool> asleep_{false};
  unsigned in_flight_ = 0;
  struct Ended {
    IoTarget* target;
    int result;
  };
  std::vector<Ended> ended_;  // without the ring, their targets not told yet
  std::vector<Ended> telling_;
  std::chrono::steady_clock::time_point slow_until_;  // writes wait for the disk
  bool started_ = false;
};

}  // namespace uvfio::nvme
