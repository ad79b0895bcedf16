// A limited number of threads for any number of clients, of whom none gets all.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "memory/process.h"

namespace uvfio::nodes {

// A client can make its requests last: their arguments may lie on pages that it serves itself
// (userfaultfd, a FUSE file), and the kernel does not say so beforehand. So a process gets another
// thread only while at least as many are free as it has already. What it asks for beyond that waits
// here until one of its requests ends, or enough of others. Thread-safe.
template <typename Item>
class FairShare {
 public:
  // `capacity`: threads there are to share.
  explicit FairShare(unsigned capacity) : capacity_(capacity) {}

  // May a request of thread `client` be served now? Then finish(client) comes after it. If not,
  // `make_item()` is kept and comes out of some finish().
  template <typename MakeItem>
  [[nodiscard]] bool admit(pid_t client, MakeItem&& make_item) {
    const std::lock_guard lock(mutex_);
    // Whose threads they are is of no interest as long as most are free.
    if (waiting_.empty() && running_.size() < capacity_ / 4) {
      running_.push_back({.thread = client, .group = 0});
      return true;
    }
    for (auto& running : running_) {
      if (running.group == 0) running.group = group_of(running.thread);
    }
    const pid_t group = group_of(client);
    // We are no client, and others wait for what we ask.
    if (group == getpid() || (!waiting_.contains(group) && has_room(group))) {
      running_.push_back({.thread = client, .group = group});
      return true;
    }
    waiting_[group].push_back({client, make_item()});
    return false;
  }

  // A request of `client` is over. The result is to be served next in its place: the thread that it
  // is of, and its item.
  [[nodiscard]] std::optional<std::pair<pid_t, Item>> finish(pid_t client) {
    const std::lock_guard lock(mutex_);
    const auto ended = std::ranges::find(running_, client, &Running::thread);
    if (ended != running_.end()) {
      *ended = running_.back();
      running_.pop_back();
    }
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (!has_room(it->first)) continue;
      auto next = std::move(it->second.front());
      running_.push_back({.thread = next.first, .group = it->first});
      it->second.pop_front();
      if (it->second.empty()) waiting_.erase(it);
      return next;
    }
    return std::nullopt;
  }

 private:
  struct Running {
    pid_t thread;
    pid_t group;  // 0: not asked for yet
  };

  // The thread waits for its answer, so its number is its own. If it is none that we can see, it
  // stands for itself.
  static pid_t group_of(pid_t thread) { return memory::thread_group_of(thread).value_or(thread); }
  [[nodiscard]] bool has_room(pid_t group) const {
    const auto own = static_cast<std::size_t>(std::ranges::count(running_, group, &Running::group));
    return own + 1 + running_.size() <= capacity_;
  }

  const std::size_t capacity_;
  std::mutex mutex_;
  std::vector<Running> running_;
  std::map<pid_t, std::deque<std::pair<pid_t, Item>>> waiting_;  // by thread group; none is empty
};

}  // namespace uvfio::nodes
