// One-shot requests to a thread that waits for us.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <string>
#include <string_view>

#include "memory/process.h"
#include "memory/remote_memory.h"

namespace uvfio::memory {
namespace {

constexpr unsigned kPidfdThread = O_EXCL;  // PIDFD_THREAD, Linux 6.9

// PROC_USER_INIT_INO (0xEFFFFFFD), which the kernel keeps as part of its ABI.
constexpr std::string_view kInitialUserNamespace = "user:[4026531837]";

enum class Direction : std::uint8_t { kFromThread, kToThread };

// EPERM and ENOSYS are left to the caller. By tid: the thread is blocked in its request, so the
// number is its own, and page protections are respected.
Status process_vm(pid_t tid, std::uint64_t vaddr, std::byte* data, std::size_t size,
                  Direction direction) {
  while (size != 0) {
    const iovec local{.iov_base = data, .iov_len = size};
    const iovec remote{.iov_base = reinterpret_cast<void*>(vaddr), .iov_len = size};
    const ssize_t length = direction == Direction::kFromThread
                               ? process_vm_readv(tid, &local, 1, &remote, 1, 0)
                               : process_vm_writev(tid, &local, 1, &remote, 1, 0);
    if (length < 0) {
      const bool known = errno == ESRCH || errno == EPERM || errno == ENOSYS;
      return fail(known ? errno : EFAULT);
    }
    if (length == 0) return fail(EFAULT);
    data += length;
    vaddr += static_cast<std::uint64_t>(length);
    size -= static_cast<std::size_t>(length);
  }
  return {};
}

Result<RemoteMemory> memory_of(pid_t tid) {
  const auto directory = open_proc_directory(tid);
  if (!directory) return std::unexpected(directory.error());
  return RemoteMemory::open(directory->get());
}

// A sandbox may have taken the system calls away, or a kernel been built without them.
bool is_refused(const Status& status) {
  return !status && (status.error() == Errno{EPERM} || status.error() == Errno{ENOSYS});
}

Result<Fd> open_pidfd(pid_t tid) {
  // The thread itself: its table of descriptors may be its own (CLONE_FILES).
  Fd thread(static_cast<int>(syscall(SYS_pidfd_open, tid, kPidfdThread)));
  if (thread) return thread;
  if (errno != EINVAL) return fail(errno);
  const auto group = thread_group_of(tid);
  if (!group) return std::unexpected(group.error());
  Fd process(static_cast<int>(syscall(SYS_pidfd_open, *group, 0)));
  if (!process) return fail(errno);
  return process;
}

}  // namespace

Status copy_from_thread(pid_t tid, std::uint64_t vaddr, std::span<std::byte> data) {
  const Status status = process_vm(tid, vaddr, data.data(), data.size(), Direction::kFromThread);
  if (!is_refused(status)) return status;
  const auto memory = memory_of(tid);
  return memory ? memory->read(vaddr, data) : std::unexpected(memory.error());
}

Status copy_to_thread(pid_t tid, std::uint64_t vaddr, std::span<const std::byte> data) {
  const Status status = process_vm(tid, vaddr, const_cast<std::byte*>(data.data()), data.size(),
                                   Direction::kToThread);
  if (!is_refused(status)) return status;
  const auto memory = memory_of(tid);
  return memory ? memory->write(vaddr, data) : std::unexpected(memory.error());
}

Status copy_to_thread_if(pid_t tid, std::uint64_t vaddr, std::span<const std::byte> data,
                         const std::function<bool()>& still) {
  const auto memory = memory_of(tid);
  if (!memory) return std::unexpected(memory.error());
  if (!still()) return fail(EFAULT);
  return memory->write(vaddr, data);
}

Result<Fd> duplicate_from_thread(pid_t tid, int fd) {
  const auto pidfd = open_pidfd(tid);
  if (!pidfd) return std::unexpected(pidfd.error());
  Fd copy(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd->get(), fd, 0)));
  if (!copy) return fail(errno);
  return copy;
}

bool thread_can_lock_memory(pid_t tid) {
  if (tid <= 0) return false;  // to capget, 0 is ourselves; to FUSE, somebody whom we cannot see
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = tid};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  // The quick question first: most clients that lack it need no second one.
  if (syscall(SYS_capget, &header, data.data()) != 0) return false;
  if ((data[0].effective & (1u << CAP_IPC_LOCK)) == 0) return false;
  // To root in a user namespace of its own, its capabilities say nothing about the machine's
  // memory.
  // Reading the link is quicker than following it.
  const std::string path = "/proc/" + std::to_string(tid) + "/ns/user";
  std::array<char, 64> target{};
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  return length > 0 &&
         std::string_view(target.data(), static_cast<std::size_t>(length)) == kInitialUserNamespace;
}

}  // namespace uvfio::memory
