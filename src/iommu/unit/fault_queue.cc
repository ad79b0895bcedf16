#include "iommu/unit/fault_queue.h"

#include <utility>

namespace uvfio::iommu {

const char* describe(Fault::Reason reason) {
  switch (reason) {
    case Fault::Reason::not_present:
      return "no mapping";
    case Fault::Reason::not_permitted:
      return "not permitted";
  }
  return "unknown";
}

void FaultQueue::report(Fault fault) {
  fault.time = std::chrono::system_clock::now();
  const std::scoped_lock lock(mutex_);
  ++total_;
  if (faults_.size() == kCapacity) faults_.pop_front();
  faults_.push_back(std::move(fault));
}

std::vector<Fault> FaultQueue::recent() const {
  const std::scoped_lock lock(mutex_);
  return {faults_.begin(), faults_.end()};
}

std::uint64_t FaultQueue::total() const {
  const std::scoped_lock lock(mutex_);
  return total_;
}

}  // namespace uvfio::iommu
