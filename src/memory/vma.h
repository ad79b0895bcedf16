// What is mapped where in an address space, and who may do what there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::memory {

// One mapping (the kernel's vm_area_struct) as it was when it was asked for. Addresses in bytes.
struct Vma {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t offset = 0;  // of `begin` in the file
  dev_t device = 0;          // of the file; 0 and 0 where there is none
  ino_t inode = 0;
  bool readable = false;
  bool writable = false;
  bool shared = false;

  // What get_user_pages asks: write access needs no read permission.
  [[nodiscard]] bool admits(bool write) const { return write ? writable : readable; }
};

// Answers from a /proc/<pid>/maps descriptor, which stays tied to the address space that it was
// opened for: no recycled pid and no exec can slip another one under it. Thread-safe.
class VmaReader {
 public:
  enum class Method : std::uint8_t {
    kBest,  // the PROCMAP_QUERY ioctl (0.2 us), or the text on kernels before 6.11
    kText,  // always the text: a slow walk that only old kernels need
  };

  explicit VmaReader(Fd maps, Method method = Method::kBest)
      : maps_(std::move(maps)), method_(method) {}

  // The mapping that covers `vaddr`. EFAULT: none. ESRCH: the address space is gone.
  [[nodiscard]] Result<Vma> find(std::uint64_t vaddr) const;

  // Do mappings that admit the access cover [vaddr, vaddr + size) without a gap? EFAULT: no, or the
  // range wraps around. ESRCH: the address space is gone.
  [[nodiscard]] Status check(std::uint64_t vaddr, std::uint64_t size, bool write) const;

 private:
  [[nodiscard]] Result<Vma> query(std::uint64_t vaddr) const;
  [[nodiscard]] Result<Vma> parse(std::uint64_t vaddr) const;

  Fd maps_;
  Method method_;
  mutable std::mutex text_mutex_;  // a walk through the text must not be interleaved with another
};

}  // namespace uvfio::memory
