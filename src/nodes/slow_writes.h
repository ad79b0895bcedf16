// Writes that take as long as a client likes.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>

#include "nodes/lanes.h"

struct fuse_req;

namespace uvfio::nodes {

struct Channel;
class Handle;

// Each has a thread of its own. A client that is killed does not get its answer any more, but the
// kernel keeps it until it has one - and with it its files, for which the write may be waiting. So
// it gets one, and the write goes on without it. Thread-safe.
class SlowWrites {
 public:
  // Replies now or later. `channel` is the one that `request` was read from.
  void start(fuse_req* request, Handle& target, std::span<const std::byte> data, off_t offset,
             std::shared_ptr<Channel> channel);
  // Takes no more, and waits for those that there are.
  void join() { lanes_.join(); }

 private:
  // Who takes it from the table answers it.
  struct Write {
    fuse_req* request = nullptr;
    pid_t client = 0;
    std::shared_ptr<Channel> channel;
  };

  std::optional<Write> take(std::uint64_t number);
  void interrupted(std::uint64_t number);
  bool give_up_if_killed(std::uint64_t number);

  std::mutex mutex_;
  std::condition_variable taken_;
  std::atomic<std::uint64_t> next_{1};
  std::unordered_map<std::uint64_t, Write> writes_;
  Lanes lanes_;
};

}  // namespace uvfio::nodes
