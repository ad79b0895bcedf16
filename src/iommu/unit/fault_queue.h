// The faults that an IOMMU unit has recorded.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "uvfio/dma.h"

namespace uvfio::iommu {

// An access of a device that the unit has refused.
struct Fault {
  enum class Reason : std::uint8_t { not_present, not_permitted };
  std::string device;
  std::uint64_t iova = 0;
  std::uint64_t size = 0;  // bytes asked for
  vfio::Prot access = vfio::Prot::none;
  Reason reason = Reason::not_present;
  std::chrono::system_clock::time_point time;
};

[[nodiscard]] const char* describe(Fault::Reason reason);

// The last faults, and how many there were. A device that faults all the time costs the room of one
// full queue. Thread-safe.
class FaultQueue {
 public:
  static constexpr std::size_t kCapacity = 256;

  void report(Fault fault);
  // Oldest first.
  [[nodiscard]] std::vector<Fault> recent() const;
  // Since the unit was made, those that the queue has dropped included.
  [[nodiscard]] std::uint64_t total() const;

 private:
  mutable std::mutex mutex_;
  std::deque<Fault> faults_;
  std::uint64_t total_ = 0;
};

}  // namespace uvfio::iommu
