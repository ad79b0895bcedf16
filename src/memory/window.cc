#include "memory/window.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <limits>

namespace uvfio::memory {
namespace {

// Sparse files cost a client nothing, but our 128 TiB of addresses are everybody's. What does not
// fit is copied instead.
constexpr std::uint64_t kMaxMapped = std::uint64_t{32} << 40;
std::atomic<std::uint64_t> mapped{0};

bool reserve(std::uint64_t size) {
  std::uint64_t now = mapped.load(std::memory_order_relaxed);
  do {
    if (size > kMaxMapped - now) return false;
  } while (!mapped.compare_exchange_weak(now, now + size, std::memory_order_relaxed));
  return true;
}

}  // namespace

Result<std::shared_ptr<Window>> Window::map(int fd, FileRange range, std::uint64_t page_size,
                                            bool writable) {
  if (range.offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max())) {
    return fail(EOVERFLOW);
  }
  if (!reserve(range.size)) return fail(ENOSPC);
  void* const base = mmap(nullptr, range.size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                          MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(range.offset));
  if (base == MAP_FAILED) {
    const int error = errno;
    mapped.fetch_sub(range.size, std::memory_order_relaxed);
    return fail(error);
  }
  auto guard = GuardedRange::add(static_cast<std::byte*>(base), range.size, page_size, writable);
  if (!guard) {
    munmap(base, range.size);
    mapped.fetch_sub(range.size, std::memory_order_relaxed);
    return std::unexpected(guard.error());
  }
  // All three are best effort. Pinned memory must not be swapped out, a forked child has no
  // business in it, and a core dump of ours is no place for it.
  static_cast<void>(mlock2(base, range.size, MLOCK_ONFAULT));
  static_cast<void>(madvise(base, range.size, MADV_DONTFORK));
  static_cast<void>(madvise(base, range.size, MADV_DONTDUMP));
  return std::shared_ptr<Window>(
      new Window(static_cast<std::byte*>(base), range, std::move(*guard)));
}

Window::~Window() {
  {
    const GuardedRange unregistered = std::move(guard_);  // before the addresses are given away
  }
  munmap(base_, range_.size);
  mapped.fetch_sub(range_.size, std::memory_order_relaxed);
}

std::shared_ptr<Window> WindowCache::find(const File& file, const FileRange& part) const {
  auto next = windows_.upper_bound(Key{.file = file, .offset = part.offset});
  if (next == windows_.begin()) return nullptr;
  const auto& [key, candidate] = *std::prev(next);
  if (key.file != file) return nullptr;
  auto window = candidate.lock();
  // A damaged window stays cut off from the file, even when the file has grown again.
  if (window == nullptr || !window->contains(part) || window->faults() != 0) return nullptr;
  return window;
}

void WindowCache::insert(const File& file, const std::shared_ptr<Window>& window) {
  windows_[Key{.file = file, .offset = window->range().offset}] = window;
  if (windows_.size() < sweep_at_) return;
  std::erase_if(windows_, [](const auto& entry) { return entry.second.expired(); });
  sweep_at_ = std::max<std::size_t>(16, 2 * windows_.size());
}

}  // namespace uvfio::memory
