#include "nodes/lanes.h"

#include <exception>
#include <memory>
#include <utility>

namespace uvfio::nodes {

bool Lanes::start(Task&& task) {
  std::list<std::thread> finished;
  bool accepted = false;
  {
    const std::lock_guard lock(mutex_);
    finished.swap(finished_);
    accepted = !stopped_ && start_locked(std::move(task));
  }
  for (auto& thread : finished) {
    thread.join();
  }
  return accepted;
}

bool Lanes::start_locked(Task&& task) {
  std::shared_ptr<Task> held;
  auto self = running_.end();
  try {
    held = std::make_shared<Task>(std::move(task));
    self = running_.emplace(running_.end());
    // The new thread cannot get at `*self` before we have left the lock.
    *self = std::thread([this, self, held] {
      (*held)();
      *held = nullptr;
      const std::lock_guard lock(mutex_);
      finished_.splice(finished_.end(), running_, self);
      none_running_.notify_all();
    });
    return true;
  } catch (const std::exception&) {  // no thread, or no memory for it
    if (self != running_.end()) running_.erase(self);
    if (held) task = std::move(*held);
    return false;
  }
}

void Lanes::join() {
  std::list<std::thread> finished;
  {
    std::unique_lock lock(mutex_);
    stopped_ = true;
    none_running_.wait(lock, [this] { return running_.empty(); });
    finished.swap(finished_);
  }
  for (auto& thread : finished) {
    thread.join();
  }
}

}  // namespace uvfio::nodes
