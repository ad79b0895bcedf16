#include "uvfio/memory.h"

namespace uvfio::memory {

Status LockedMemory::charge(std::uint64_t pages, std::uint64_t limit) {
  if (pages == 0) return {};  // the kernel asks nothing for nothing, even beyond the limit
  std::uint64_t held = pages_.load(std::memory_order_relaxed);
  do {
    if (held > limit || pages > limit - held) return fail(ENOMEM);
  } while (!pages_.compare_exchange_weak(held, held + pages, std::memory_order_relaxed));
  return {};
}

}  // namespace uvfio::memory
