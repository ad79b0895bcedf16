#include "nodes/errands.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

namespace uvfio::nodes {
namespace {

// It waits for nothing but device models and us.
constexpr std::chrono::seconds kLimit(2);

}  // namespace

std::shared_ptr<const void> Errands::begin(std::function<bool()> wanted) {
  const std::lock_guard lock(mutex_);
  const auto errand = running_.emplace(next_++, std::move(wanted)).first;
  return {&errand->first, [this](const void* number) {
            const std::lock_guard inner(mutex_);
            running_.erase(*static_cast<const std::uint64_t*>(number));
            ended_.notify_all();
          }};
}

void Errands::wait() {
  std::unique_lock lock(mutex_);
  std::vector<std::uint64_t> unwanted;
  for (const auto& [number, wanted] : running_) {
    if (!wanted()) unwanted.push_back(number);
  }
  ended_.wait_for(lock, kLimit, [&] {
    return std::ranges::none_of(unwanted, [&](auto number) { return running_.contains(number); });
  });
}

}  // namespace uvfio::nodes
