// Who uses a thing that is about to go.
#pragma once

#include <atomic>
#include <cstdint>

namespace uvfio::iommu {

// A count of users that its owner can wait for. New ones come only while a reader can find the
// thing (in an RCU section); the owner hides it first. Thread-safe.
class Users {
 public:
  void enter() { count_.fetch_add(1, std::memory_order_acquire); }
  void leave() {
    if (count_.fetch_sub(1, std::memory_order_release) == 1) count_.notify_all();
  }
  void wait() const {
    for (auto count = count_.load(std::memory_order_acquire); count != 0;
         count = count_.load(std::memory_order_acquire)) {
      count_.wait(count, std::memory_order_acquire);
    }
  }

 private:
  std::atomic<std::uint32_t> count_{0};
};

}  // namespace uvfio::iommu
