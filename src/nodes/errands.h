// Work on behalf of clients that holds their files, by threads that the client does not wait for if
// it is killed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace uvfio::nodes {

// A client that has been killed seems gone while such work still holds its group: whoever finds the
// group busy asks here before it says so. Thread-safe.
class Errands {
 public:
  // The work goes on as long as the result lives, which must not outlive this object. `wanted` says
  // whether the client still waits for it; called until then, by any thread.
  [[nodiscard]] std::shared_ptr<const void> begin(std::function<bool()> wanted);
  // Waits for all work that nobody wants any more; for some seconds at the most. What a living
  // client has us do is its own business, and takes as long as it likes.
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, std::function<bool()>> running_;
};

}  // namespace uvfio::nodes
