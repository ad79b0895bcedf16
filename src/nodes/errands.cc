#include "nodes/errands.h"

#include <chrono>

namespace uvfio::nodes {
namespace {

// It waits for nothing but device models and us.
constexpr std::chrono::seconds kLimit(2);

}  // namespace

std::shared_ptr<const void> Errands::begin() {
  const std::lock_guard lock(mutex_);
  const auto [number, added] = running_.insert(next_++);
  return {&*number, [this](const void* errand) {
            const std::lock_guard inner(mutex_);
            running_.erase(*static_cast<const std::uint64_t*>(errand));
            ended_.notify_all();
          }};
}

void Errands::wait() {
  std::unique_lock lock(mutex_);
  const std::uint64_t end = next_;
  ended_.wait_for(lock, kLimit, [&] { return running_.empty() || *running_.begin() >= end; });
}

}  // namespace uvfio::nodes
