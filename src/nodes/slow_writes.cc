#include "nodes/slow_writes.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <utility>
#include <vector>

#include "memory/process.h"
#include "nodes/fuse_operations.h"
#include "nodes/fuse_replies.h"
#include "nodes/handle.h"
#include "nodes/workers.h"

namespace uvfio::nodes {

void SlowWrites::start(fuse_req_t request, Handle& target, std::span<const std::byte> data,
                       off_t offset, std::shared_ptr<Channel> channel) {
  const std::uint64_t number = next_.fetch_add(1);
  // Before anybody knows of the write: it needs memory.
  Lanes::Task task = [this, number, handle = target.shared_from_this(), offset,
                      copy = std::vector<std::byte>(data.begin(), data.end())]() mutable {
    Result<std::size_t> done = fail(EIO);
    try {
      done = handle->write(static_cast<std::uint64_t>(offset), copy);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a write failed: {}", error.what());
    }
    handle.reset();
    const auto write = take(number);
    if (!write) {
      return;
    }
    const WorkerPool::Borrow borrow(write->channel);
    reply_write(write->request, done, copy.size());
  };
  {
    const std::lock_guard lock(mutex_);
    writes_[number] = {
        .request = request, .client = fuse_req_ctx(request)->pid, .channel = std::move(channel)};
    // May call back at once; under the lock, so that nobody answers, and thereby frees, the request
    // meanwhile.
    fuse_req_interrupt_func(
        request,
        [](fuse_req_t interrupted, void* which) {
          FuseOperations::of(interrupted)
              .slow_writes()
              .interrupted(reinterpret_cast<std::uint64_t>(which));
        },
        reinterpret_cast<void*>(number));
  }
  if (!lanes_.start(std::move(task))) {
    if (const auto write = take(number)) {
      fuse_reply_err(write->request, EAGAIN);
    }
  }
}

std::optional<SlowWrites::Write> SlowWrites::take(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto node = writes_.extract(number);
  taken_.notify_all();
  return node ? std::optional(std::move(node.mapped())) : std::nullopt;
}

// Some signal has come to the client. The kernel says so only once: whether a deadly one follows a
// harmless one has to be looked at from time to time. Called with locks of libfuse held.
void SlowWrites::interrupted(std::uint64_t number) {
  static_cast<void>(lanes_.start([this, number] {
    constexpr auto kPeriod = std::chrono::milliseconds(100);
    while (!give_up_if_killed(number)) {
      std::unique_lock lock(mutex_);
      taken_.wait_for(lock, kPeriod, [&] { return !writes_.contains(number); });
    }
  }));
}

// True: it is answered, now or before.
bool SlowWrites::give_up_if_killed(std::uint64_t number) {
  pid_t client = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto it = writes_.find(number);
    if (it == writes_.end()) {
      return true;
    }
    client = it->second.client;
  }
  if (!memory::thread_is_killed(client)) {
    return false;
  }
  if (const auto write = take(number)) {
    const WorkerPool::Borrow borrow(write->channel);
    fuse_reply_err(write->request, EINTR);
  }
  return true;
}

}  // namespace uvfio::nodes
