// Address spaces of other processes.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "uvfio/memory.h"

namespace uvfio::memory {

// The address spaces that clients have shown us so far. A process is known by its thread group and by
// what it is now: a recycled pid or an exec gives a new object. Thread-safe.
class ProcessTable {
 public:
  // The address space that thread `tid` runs in, which must be alive and blocked in a request to us.
  // ESRCH: no such thread; EACCES: not ours to look into.
  [[nodiscard]] Result<std::shared_ptr<AddressSpace>> acquire(pid_t tid);

 private:
  std::mutex mutex_;
  std::map<pid_t, std::weak_ptr<AddressSpace>> by_thread_group_;
};

// One-shot copies for a thread that is blocked in a request (copy_from_user, copy_to_user). EFAULT.
[[nodiscard]] Status copy_from_thread(pid_t tid, std::uint64_t vaddr, std::span<std::byte> data);
[[nodiscard]] Status copy_to_thread(pid_t tid, std::uint64_t vaddr, std::span<const std::byte> data);

// A duplicate of descriptor `fd` of thread `tid`'s process (pidfd_getfd). EBADF: it has none. EPERM.
[[nodiscard]] Result<Fd> duplicate_from_thread(pid_t tid, int fd);

// Does the thread have CAP_IPC_LOCK in the initial user namespace?
[[nodiscard]] bool thread_can_lock_memory(pid_t tid);

}  // namespace uvfio::memory
