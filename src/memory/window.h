// Client memory that is mapped into this process.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/sigbus_guard.h"
#include "uvfio/error.h"

namespace uvfio::memory {

// A piece of a file, in bytes.
struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// A shared mapping of a client's file. The client may shrink the file: see GuardedRange. Owns the
// mapping. Thread-safe.
class Window {
 public:
  // Maps `range` of the file `fd`, which the caller may close afterwards. The range is a multiple
  // of `page_size`, the page size of the file's file system. ENOSPC: too many windows, or too much
  // address space in them; otherwise what mmap says.
  [[nodiscard]] static Result<std::shared_ptr<Window>> map(int fd, FileRange range,
                                                           std::uint64_t page_size, bool writable);
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  ~Window();

  [[nodiscard]] const FileRange& range() const { return range_; }
  [[nodiscard]] bool contains(const FileRange& part) const {
    return part.offset >= range_.offset && part.size <= range_.size &&
           part.offset - range_.offset <= range_.size - part.size;
  }
  // The byte at this offset of the file, which must lie in the range.
  [[nodiscard]] std::byte* at(std::uint64_t offset) const {
    return base_ + (offset - range_.offset);
  }
  // How many accesses found no memory behind a page. Such a page is no longer the client's.
  [[nodiscard]] std::uint32_t faults() const { return guard_.faults(); }

 private:
  Window(std::byte* base, FileRange range, GuardedRange guard)
      : base_(base), range_(range), guard_(std::move(guard)) {}

  std::byte* base_;
  FileRange range_;
  GuardedRange guard_;
};

// The windows that an address space has now, so that thousands of DMA mappings in one VMA of the
// client cost one VMA here. Holds none of them alive. Not thread-safe.
//
// Files are known by device and inode number. As long as a window lives, so does its inode, and its
// number is not given away.
class WindowCache {
 public:
  struct File {
    dev_t device = 0;
    ino_t inode = 0;
    bool writable = false;
    auto operator<=>(const File&) const = default;
  };

  // An undamaged window that contains `part`, or null.
  [[nodiscard]] std::shared_ptr<Window> find(const File& file, const FileRange& part) const;
  void insert(const File& file, const std::shared_ptr<Window>& window);

 private:
  struct Key {
    File file;
    std::uint64_t offset = 0;
    auto operator<=>(const Key&) const = default;
  };
  std::map<Key, std::weak_ptr<Window>> windows_;
  std::size_t sweep_at_ = 16;
};

}  // namespace uvfio::memory
