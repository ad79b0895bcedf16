// Threads for requests that must not hold a worker.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace uvfio::nodes {

// Two kinds of lane: the resolver, one thread that takes tasks in turn, and a thread per task for
// what may take as long as a client likes. Tasks must not throw. Thread-safe.
class Lanes {
 public:
  using Task = std::function<void()>;

  Lanes() = default;
  ~Lanes();
  Lanes(const Lanes&) = delete;

  // False, and the task is untouched, once the lane has stopped or when no thread can be had.
  [[nodiscard]] bool resolve(Task&& task);
  [[nodiscard]] bool detach(Task&& task);

  // Finishes what was given to the resolver; nothing is taken on either lane afterwards.
  void stop_resolver();
  // Waits for the tasks with threads of their own.
  void join();

 private:
  void run_resolver();
  bool start_locked(Task&& task);

  std::mutex mutex_;
  std::condition_variable ready_;
  bool stopped_ = false;
  std::deque<Task> queue_;
  std::thread resolver_;  // started by the first task
  std::list<std::thread> running_;
  std::list<std::thread> finished_;  // to be joined
  std::condition_variable none_running_;
};

}  // namespace uvfio::nodes
