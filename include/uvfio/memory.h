// A client's memory as an object: the kernel's mm_struct, seen from outside.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::memory {

inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;
static_assert(kPageSize == 1u << kPageShift);

// A piece of client memory that is mapped into this process: the client's own pages, no copy.
// `owner` keeps the mapping, also beyond the client and its address space; once it is gone, `host`
// dangles. It is null where nothing needs keeping. `host` may be written only if the view was asked
// for with write = true.
//
// The client may take the memory away meanwhile (ftruncate). A load or store then finds zeros that
// belong to nobody; a system call that is given such an address fails with EFAULT.
struct View {
  std::byte* host = nullptr;
  std::shared_ptr<const void> owner;
};

// How much of an address space is locked for devices (mm->locked_vm), and for whom. Thread-safe.
class LockedMemory {
 public:
  using Holder = unsigned;  // the number of a container

  [[nodiscard]] std::uint64_t pages() const { return pages_.load(std::memory_order_relaxed); }
  // Adds `pages` unless the sum would exceed `limit` pages: then ENOMEM and nothing is added.
  [[nodiscard]] Status charge(std::uint64_t pages, std::uint64_t limit, Holder holder = 0);
  void uncharge(std::uint64_t pages, Holder holder = 0);

  // The same for `pages` pages from page number `first`, of which those that somebody has charged
  // this way before are not counted again. ENOMEM also when there is no room to remember it.
  [[nodiscard]] Status charge_range(std::uint64_t first, std::uint64_t pages, std::uint64_t limit,
                                    Holder holder = 0);
  // What was charged with charge_range; a page counts until its last holder lets go.
  void uncharge_range(std::uint64_t first, std::uint64_t pages, Holder holder = 0);

  // Who has asked for how many pages: with charge_range their sum may be more than pages().
  [[nodiscard]] std::map<Holder, std::uint64_t> holders() const;

 private:
  // The pages from the key on, up to the next key, have `count` holders.
  using Counts = std::map<std::uint64_t, std::uint32_t>;
  Counts::iterator split(std::uint64_t page);
  void join(std::uint64_t first, std::uint64_t last);

  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> pages_{0};  // changed with the lock held
  std::map<Holder, std::uint64_t> holders_;
  Counts counts_;
};

// One address space. It may outlive the process that it belonged to: then every access fails with
// ESRCH. Addresses and sizes are in bytes and need no alignment; a range that wraps around is
// EFAULT. Thread-safe.
class AddressSpace {
 public:
  virtual ~AddressSpace() = default;

  [[nodiscard]] virtual bool alive() const = 0;
  // For people: "process 1234".
  [[nodiscard]] virtual std::string name() const = 0;

  // Copies from and to the client. EFAULT: some byte is not accessible (what comes before it may
  // have been copied). ESRCH: the address space is gone.
  [[nodiscard]] virtual Status read(std::uint64_t vaddr, std::span<std::byte> data) = 0;
  [[nodiscard]] virtual Status write(std::uint64_t vaddr, std::span<const std::byte> data) = 0;

  // Would every page of the range admit the access? EFAULT, ESRCH. What get_user_pages would say,
  // but for a file that is shorter than its mapping: that is found out upon access. An empty range
  // is fine.
  [[nodiscard]] virtual Status check(std::uint64_t vaddr, std::uint64_t size, bool write) = 0;

  // The range itself, without a copy. EOPNOTSUPP: this memory cannot be shared (private pages, or
  // several backing objects) but would pass `check`; use read and write. EFAULT (also when empty),
  // ESRCH.
  [[nodiscard]] virtual Result<View> view(std::uint64_t vaddr, std::uint64_t size, bool write) = 0;

  // RLIMIT_MEMLOCK in pages, less what the client locked by itself when this was last sampled.
  [[nodiscard]] virtual std::uint64_t lock_limit() const {
    return std::numeric_limits<std::uint64_t>::max();
  }

  [[nodiscard]] LockedMemory& locked() { return locked_; }

 private:
  LockedMemory locked_;
};

// This process: pointers are used as they are. For the embedded door. One object per process.
[[nodiscard]] std::shared_ptr<AddressSpace> this_process();

// A file that stands for an address space, address = file offset: memory that a client handed over
// as a descriptor (vfio-user DMA_MAP). `size` bytes from offset 0, mapped at once. Writable if the
// descriptor is. EINVAL: not a regular file that large, or on a file system that the client may
// serve (FUSE). EBADF; ENOSPC: too much is mapped already; otherwise what mmap says.
[[nodiscard]] Result<std::shared_ptr<AddressSpace>> from_fd(Fd fd, std::uint64_t size);

}  // namespace uvfio::memory
