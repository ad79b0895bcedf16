// Address spaces of other processes.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "uvfio/memory.h"

namespace uvfio::memory {

class ProcessAddressSpace;

// The address spaces that clients have shown us so far. A process is known by its thread group and
// by what it is now: a recycled pid or an exec gives a new object. Thread-safe.
class ProcessTable {
 public:
  // The address space that thread `tid` runs in, which must be alive and blocked in a request to
  // us. The same object for all threads of a process, as long as somebody holds it (1.5 us);
  // otherwise a new one. ESRCH: no such thread; EACCES: not ours to look into; EMFILE and such.
  [[nodiscard]] Result<std::shared_ptr<AddressSpace>> acquire(pid_t tid);

 private:
  [[nodiscard]] Result<pid_t> thread_group(pid_t tid);
  void sweep();

  // Thread ids seen of late, as tid << 32 | thread group. Only hints: each is verified when used.
  std::array<std::atomic<std::uint64_t>, 256> hints_{};

  std::mutex mutex_;
  std::map<pid_t, std::weak_ptr<ProcessAddressSpace>> by_thread_group_;
  std::size_t sweep_at_ = 16;
};

// The thread group (process id) of a thread. ESRCH.
[[nodiscard]] Result<pid_t> thread_group_of(pid_t tid);

// Is the thread on its way out, by a signal that it cannot resist, though some system call keeps
// it? Reading is all that this takes. True if there is no such thread.
[[nodiscard]] bool thread_is_killed(pid_t tid);

// One-shot copies for a thread that is blocked in a request (copy_from_user, copy_to_user). The
// number is all they have: keep the thread blocked. EFAULT (part may have been copied), ESRCH,
// EACCES.
[[nodiscard]] Status copy_from_thread(pid_t tid, std::uint64_t vaddr, std::span<std::byte> data);
[[nodiscard]] Status copy_to_thread(pid_t tid, std::uint64_t vaddr,
                                    std::span<const std::byte> data);

// copy_to_thread for a thread that may be killed meanwhile: nothing is written unless `still()`,
// asked when its memory is in our hands whatever becomes of its number. Slower. EFAULT also if not.
[[nodiscard]] Status copy_to_thread_if(pid_t tid, std::uint64_t vaddr,
                                       std::span<const std::byte> data,
                                       const std::function<bool()>& still);

// A duplicate (O_CLOEXEC) of descriptor `fd` of thread `tid` (pidfd_getfd). EBADF: it has none.
// ESRCH. EPERM: not ours to look into.
[[nodiscard]] Result<Fd> duplicate_from_thread(pid_t tid, int fd);

// Does the thread have CAP_IPC_LOCK in the initial user namespace? No, if we may not know.
[[nodiscard]] bool thread_can_lock_memory(pid_t tid);

}  // namespace uvfio::memory
