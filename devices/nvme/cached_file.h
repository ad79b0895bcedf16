// What the kernel has of a file in its page cache, as memory of this process.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/sigbus_guard.h"

namespace uvfio::nvme {

// Reads from the page cache without a system call. Only reads: a page that is written through a
// mapping becomes dirty with all of its folio, which may be 2 MiB, and all of that would be written
// at the next flush. One thread's.
class CachedFile {
 public:
  CachedFile() = default;
  // `file` has `size` bytes and stays open as long. If it cannot be mapped nothing is cached.
  CachedFile(int file, std::uint64_t size);
  CachedFile(CachedFile&& other) noexcept { *this = std::move(other); }
  CachedFile& operator=(CachedFile&& other) noexcept;
  ~CachedFile();

  // Fills `to` from `offset` on, inside `size`: bytes, all of them. 0: not all of it is in the page
  // cache, or cannot be had (an error of the disk, a file that has become shorter). Ask the file
  // itself, which says why; part of `to` may have been filled. (Of a page in which the file now
  // ends, the rest reads as zeros.)
  [[nodiscard]] std::size_t read(std::uint64_t offset, std::span<const iovec> to);

 private:
  [[nodiscard]] bool cached(std::uint64_t offset, std::uint64_t size);
  void map(void* where);

  int file_ = -1;
  std::uint64_t size_ = 0;  // bytes
  std::byte* pages_ = nullptr;
  std::optional<GuardedRange> guard_;
  // For each page when it was last seen in the page cache; 0: never.
  std::unique_ptr<std::uint16_t[], decltype(&std::free)> seen_{nullptr, &std::free};
  std::vector<unsigned char> there_;
};

}  // namespace uvfio::nvme
