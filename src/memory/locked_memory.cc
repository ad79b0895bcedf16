#include <new>

#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

bool exceeds(std::uint64_t held, std::uint64_t more, std::uint64_t limit) {
  return held > limit || more > limit - held;
}

}  // namespace

Status LockedMemory::charge(std::uint64_t pages, std::uint64_t limit, Holder holder) {
  if (pages == 0) return {};  // the kernel asks nothing for nothing, even beyond the limit
  const std::scoped_lock lock(mutex_);
  const std::uint64_t held = pages_.load(std::memory_order_relaxed);
  if (exceeds(held, pages, limit)) return fail(ENOMEM);
  try {
    holders_[holder] += pages;
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM);
  }
  pages_.store(held + pages, std::memory_order_relaxed);
  return {};
}

void LockedMemory::uncharge(std::uint64_t pages, Holder holder) {
  if (pages == 0) return;
  const std::scoped_lock lock(mutex_);
  pages_.fetch_sub(pages, std::memory_order_relaxed);
  const auto found = holders_.find(holder);
  if ((found->second -= pages) == 0) holders_.erase(found);
}

// Makes `page` a key.
LockedMemory::Counts::iterator LockedMemory::split(std::uint64_t page) {
  const auto next = counts_.lower_bound(page);
  if (next != counts_.end() && next->first == page) return next;
  const std::uint32_t count = next == counts_.begin() ? 0 : std::prev(next)->second;
  return counts_.emplace_hint(next, page, count);
}

// Drops keys in [first, last] that no longer make a difference.
void LockedMemory::join(std::uint64_t first, std::uint64_t last) {
  for (auto at = counts_.lower_bound(first); at != counts_.end() && at->first <= last;) {
    const std::uint32_t before = at == counts_.begin() ? 0 : std::prev(at)->second;
    at = at->second == before ? counts_.erase(at) : std::next(at);
  }
}

Status LockedMemory::charge_range(std::uint64_t first, std::uint64_t pages, std::uint64_t limit,
                                  Holder holder) {
  if (pages == 0) return {};
  const std::scoped_lock lock(mutex_);
  const std::uint64_t end = first + pages;
  Status result;
  try {
    const auto start = split(first);
    const auto stop = split(end);
    std::uint64_t fresh = 0;
    for (auto at = start; at != stop; ++at) {
      if (at->second == 0) fresh += std::next(at)->first - at->first;
    }
    const std::uint64_t held = pages_.load(std::memory_order_relaxed);
    if (fresh != 0 && exceeds(held, fresh, limit)) {
      result = fail(ENOMEM);
    } else {
      holders_[holder] += pages;
      for (auto at = start; at != stop; ++at) ++at->second;
      pages_.store(held + fresh, std::memory_order_relaxed);
    }
  } catch (const std::bad_alloc&) {
    result = fail(ENOMEM);
  }
  join(first, end);
  return result;
}

void LockedMemory::uncharge_range(std::uint64_t first, std::uint64_t pages, Holder holder) {
  if (pages == 0) return;
  const std::scoped_lock lock(mutex_);
  const std::uint64_t end = first + pages;
  const auto start = split(first);
  const auto stop = split(end);
  std::uint64_t released = 0;
  for (auto at = start; at != stop; ++at) {
    if (--at->second == 0) released += std::next(at)->first - at->first;
  }
  join(first, end);
  pages_.fetch_sub(released, std::memory_order_relaxed);
  const auto found = holders_.find(holder);
  if ((found->second -= pages) == 0) holders_.erase(found);
}

std::map<LockedMemory::Holder, std::uint64_t> LockedMemory::holders() const {
  const std::scoped_lock lock(mutex_);
  return holders_;
}

}  // namespace uvfio::memory
