// Threads for requests that must not hold a worker.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace uvfio::nodes {

// A thread for each task, so that no task waits for another. Tasks must not throw. Thread-safe.
class Lanes {
 public:
  using Task = std::function<void()>;

  Lanes() = default;
  ~Lanes() { join(); }
  Lanes(const Lanes&) = delete;

  // False, and the task is untouched, after join() or when no thread can be had.
  [[nodiscard]] bool start(Task&& task);
  // Takes no more tasks, and waits for those that there are.
  void join();

 private:
  bool start_locked(Task&& task);

  std::mutex mutex_;
  bool stopped_ = false;
  std::list<std::thread> running_;
  std::list<std::thread> finished_;  // to be joined
  std::condition_variable none_running_;
};

}  // namespace uvfio::nodes
