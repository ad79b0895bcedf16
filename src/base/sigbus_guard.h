// Keeps this process alive when a file shrinks under a mapping of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "uvfio/error.h"

namespace uvfio {

// A mapping whose owner is somebody else's file. A client may ftruncate() its memory at any time,
// and the next access through our mapping of it raises SIGBUS. While a GuardedRange exists, such an
// access finds a page of zeros instead, which belongs to nobody: the device goes on, and only that
// client's data is lost.
//
// The first registration installs a process-wide SIGBUS handler; faults elsewhere go to the handler
// that was there before. Threads that touch guarded memory must not block SIGBUS. A system call
// that is given a guarded address fails with EFAULT instead; no signal is involved there.
//
// Unregister (destroy) before munmap. Thread-safe.
class GuardedRange {
 public:
  static constexpr std::size_t kMaxRanges = 32768;  // half of the usual vm.max_map_count

  // [begin, begin + size), mapped with pages of `page_size` bytes (more than 4096 for hugetlbfs).
  // ENOSPC: too many ranges.
  [[nodiscard]] static Result<GuardedRange> add(std::byte* begin, std::uint64_t size,
                                                std::uint64_t page_size, bool writable);

  GuardedRange(GuardedRange&& other) noexcept : slot_(std::exchange(other.slot_, kNone)) {}
  GuardedRange& operator=(GuardedRange&& other) noexcept {
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~GuardedRange();

  // How many faults have been answered with zeros in this range.
  [[nodiscard]] std::uint32_t faults() const;

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  explicit GuardedRange(std::uint32_t slot) : slot_(slot) {}
  std::uint32_t slot_;
};

}  // namespace uvfio
