// Work on behalf of clients that holds their files, by threads that the client does not wait for if it is
// killed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>

namespace uvfio::nodes {

// A client that has been killed seems gone while such work still holds its group: whoever finds the group
// busy asks here before it says so. Thread-safe.
class Errands {
 public:
  // The work goes on as long as the result lives, which must not outlive this object.
  [[nodiscard]] std::shared_ptr<const void> begin();
  // Waits for all work that has begun; for some seconds at the most.
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::uint64_t next_ = 0;
  std::set<std::uint64_t> running_;
};

}  // namespace uvfio::nodes
