#include "devices/nvme/cached_file.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "uvfio/memory.h"

namespace uvfio::nvme {
namespace {

// Asking whether a page is in the page cache takes longer than copying it. One that was there is
// taken to be there for some seconds: the kernel seldom takes away so soon what is in use, and when
// it did the read waits for the disk, no more.
constexpr std::uint16_t kFresh = 4;
constexpr std::uint64_t kAsk = 32;  // pages asked for at once
std::uint16_t seconds_now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  return static_cast<std::uint16_t>(time.tv_sec + kFresh + 1);  // not 0 soon after the start
}

std::size_t bytes_of(std::span<const iovec> vectors) {
  std::size_t size = 0;
  for (const iovec& each : vectors) size += each.iov_len;
  return size;
}

}  // namespace

CachedFile::CachedFile(int file, std::uint64_t size) : file_(file), size_(size) {
  // Untouched pages of it take no memory.
  seen_.reset(static_cast<std::uint16_t*>(
      std::calloc(size / memory::kPageSize + 1, sizeof(std::uint16_t))));
  if (seen_) map(nullptr);
}

CachedFile& CachedFile::operator=(CachedFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(size_, other.size_);
  std::swap(pages_, other.pages_);
  std::swap(guard_, other.guard_);
  std::swap(seen_, other.seen_);
  std::swap(there_, other.there_);
  return *this;
}

CachedFile::~CachedFile() {
  guard_.reset();
  if (pages_ != nullptr) munmap(pages_, size_);
}

// `where`: the former mapping, to be replaced.
void CachedFile::map(void* where) {
  guard_.reset();
  void* const at = mmap(where, size_, PROT_READ,
                        MAP_SHARED | MAP_NORESERVE | (where != nullptr ? MAP_FIXED : 0), file_, 0);
  if (at != MAP_FAILED) {
    pages_ = static_cast<std::byte*>(at);
    madvise(pages_, size_, MADV_DONTDUMP);
    if (auto guard = GuardedRange::add(pages_, size_, memory::kPageSize, false)) {
      guard_ = std::move(*guard);
      return;
    }
  }
  // Without a guard it may not be touched.
  if (pages_ != nullptr) munmap(pages_, size_);
  pages_ = nullptr;
}

bool CachedFile::cached(std::uint64_t offset, std::uint64_t size) {
  const std::uint64_t first = offset / memory::kPageSize;
  const std::uint64_t end = (offset + size - 1) / memory::kPageSize + 1;
  const std::uint16_t now = seconds_now();
  const auto fresh = [now](std::uint16_t then) {
    return then != 0 && static_cast<std::uint16_t>(now - then) <= kFresh;
  };
  const auto pages = std::span(&seen_[first], end - first);
  if (std::ranges::all_of(pages, fresh)) return true;

  // The neighbours as well, which hardly takes longer.
  const std::uint64_t from = first / kAsk * kAsk;
  const std::uint64_t to =
      std::min((end + kAsk - 1) / kAsk * kAsk, (size_ - 1) / memory::kPageSize + 1);
  there_.resize(std::max(there_.size(), to - from));
  if (mincore(pages_ + from * memory::kPageSize, (to - from) * memory::kPageSize, there_.data()) !=
      0)
    return false;
  for (std::uint64_t page = from; page != to; ++page) {
    if ((there_[page - from] & 1) != 0) seen_[page] = now;
  }
  return std::ranges::all_of(pages, fresh);
}

std::size_t CachedFile::read(std::uint64_t offset, std::span<const iovec> to) {
  const std::size_t size = bytes_of(to);
  if (pages_ == nullptr || !cached(offset, size)) return 0;
  for (const iovec& each : to) {
    std::memcpy(each.iov_base, pages_ + offset, each.iov_len);
    offset += each.iov_len;
  }
  if (guard_->faults() == 0) return size;
  // Zeros of the guard were copied.
  map(pages_);
  return 0;
}

}  // namespace uvfio::nvme
