// Has any client closed a file of ours?
#pragma once

#include <atomic>

#include "uvfio/fd.h"

namespace uvfio::nodes {

// FUSE tells of the last close of a file some time after close(2) has returned; inotify does
// before. So a request that was made after a close finds it here, at the price of one short system
// call, and knows that a RELEASE may still be on its way. Thread-safe.
class CloseWatch {
 public:
  // Watches the files in directory `path` below `root`. Without watches, or where one cannot be
  // had, there may always have been a close.
  void add(const Fd& root, const char* path);

  // May a file have been closed whose RELEASE nobody has waited for?
  [[nodiscard]] bool may_have_closed() const;

  // Taken by whoever waits for the RELEASEs of all closes so far; until it is done, others must do
  // so, too.
  class Wait {
   public:
    explicit Wait(CloseWatch& watch);
    ~Wait() { watch_.waiting_.fetch_sub(1); }
    Wait(const Wait&) = delete;

   private:
    CloseWatch& watch_;
  };

 private:
  Fd inotify_;
  std::atomic<bool> complete_{false};
  std::atomic<int> waiting_{0};
};

}  // namespace uvfio::nodes
