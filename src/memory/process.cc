#include "memory/process.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "memory/process_address_space.h"

namespace uvfio::memory {
namespace {

// Exact, whatever became of either number: the kernel looks the thread up and compares its group.
// That we may not signal it (EPERM) is found out only afterwards.
bool is_in_group(pid_t thread_group, pid_t tid) {
  return tgkill(thread_group, tid, 0) == 0 || errno == EPERM;
}

// The number that follows `label` in /proc/<tid>/status.
Result<std::uint64_t> status_number(pid_t tid, std::string_view label, int base) {
  const auto directory = open_proc_directory(tid);
  if (!directory) return std::unexpected(directory.error());
  const Fd status(openat(directory->get(), "status", O_RDONLY | O_CLOEXEC));
  if (!status) return fail(proc_error(errno));
  std::array<char, 4096> buffer;
  const ssize_t length = read(status.get(), buffer.data(), buffer.size());
  if (length <= 0) return fail(ESRCH);
  std::string_view text(buffer.data(), static_cast<std::size_t>(length));
  const std::size_t found = text.find(label);
  if (found == std::string_view::npos) return fail(ESRCH);
  text.remove_prefix(found + label.size());
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (parsed.ec != std::errc()) return fail(ESRCH);
  return number;
}

}  // namespace

Result<pid_t> thread_group_of(pid_t tid) {
  if (tid <= 0) return fail(ESRCH);
  if (is_in_group(tid, tid)) return tid;  // most requests come from a process's first thread
  const auto group = status_number(tid, "\nTgid:\t", 10);
  if (!group) return std::unexpected(group.error());
  return static_cast<pid_t>(*group);
}

bool thread_is_killed(pid_t tid) {
  // Whatever ends a process, also an exit of another thread, leaves SIGKILL with each thread that
  // is still there.
  const auto pending = status_number(tid, "\nSigPnd:\t", 16);
  return pending ? (*pending & (std::uint64_t{1} << (SIGKILL - 1))) != 0
                 : pending.error() == Errno{ESRCH};
}

Result<pid_t> ProcessTable::thread_group(pid_t tid) {
  if (tid <= 0) return fail(ESRCH);
  auto& hint = hints_[static_cast<std::size_t>(tid) % hints_.size()];
  const std::uint64_t known = hint.load(std::memory_order_relaxed);
  const auto known_tid = static_cast<pid_t>(known >> 32);
  const auto known_group = static_cast<pid_t>(known & UINT32_MAX);
  if (known_tid == tid && is_in_group(known_group, tid)) return known_group;

  const auto group = thread_group_of(tid);
  if (group) {
    hint.store(static_cast<std::uint64_t>(tid) << 32 | static_cast<std::uint64_t>(*group),
               std::memory_order_relaxed);
  }
  return group;
}

Result<std::shared_ptr<AddressSpace>> ProcessTable::acquire(pid_t tid) {
  const auto group = thread_group(tid);
  if (!group) return std::unexpected(group.error());
  for (;;) {
    std::shared_ptr<ProcessAddressSpace> known;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = by_thread_group_.find(*group);
      if (found != by_thread_group_.end()) known = found->second.lock();
    }
    // System calls stay outside the lock: one client's trouble must not hold up the others.
    if (known != nullptr && known->is_of(tid)) return known;
    auto made = ProcessAddressSpace::open(*group, tid);
    if (!made) return std::unexpected(made.error());

    const std::scoped_lock lock(mutex_);
    auto& entry = by_thread_group_[*group];
    if (entry.lock() != known) continue;  // another thread of the client was quicker: look again
    entry = *made;
    sweep();
    return *made;
  }
}

void ProcessTable::sweep() {
  if (by_thread_group_.size() < sweep_at_) return;
  std::erase_if(by_thread_group_, [](const auto& entry) { return entry.second.expired(); });
  sweep_at_ = std::max<std::size_t>(16, 2 * by_thread_group_.size());
}

}  // namespace uvfio::memory
