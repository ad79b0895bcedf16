#include "memory/process_address_space.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string_view>

namespace uvfio::memory {
namespace {

// Reading map_files takes CAP_CHECKPOINT_RESTORE in the initial user namespace, which a process
// does not gain later in life: do not try in vain at every mapping.
std::atomic<bool> may_open_map_files{true};

// A file of /proc/<pid>, or nothing.
std::string read_file(int directory, const char* name) {
  const Fd file(openat(directory, name, O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!file) return text;
  std::array<char, 4096> buffer;
  ssize_t length = 0;
  while ((length = read(file.get(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(length));
  }
  return text;
}

// The number that follows `label` and blanks in `text`. Nothing for "unlimited".
std::uint64_t number_after(std::string_view text, std::string_view label, std::uint64_t otherwise) {
  const std::size_t found = text.find(label);
  if (found == std::string_view::npos) return otherwise;
  text.remove_prefix(found + label.size());
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  std::uint64_t number = otherwise;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// The auxiliary vector of the process, as far as it fits. Empty: it has no memory (any more).
using AuxvBuffer = std::array<char, 2048>;
std::string_view read_auxv(int directory, AuxvBuffer& buffer) {
  const Fd file(openat(directory, "auxv", O_RDONLY | O_CLOEXEC));
  if (!file) return {};
  const ssize_t length = read(file.get(), buffer.data(), buffer.size());
  return {buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(length, 0))};
}

bool has_memory(int directory) {
  AuxvBuffer buffer;
  return !read_auxv(directory, buffer).empty();
}

// O_PATH: to open a device or a pipe may have side effects, or block.
Result<Fd> open_mapped_file(int directory, const Vma& vma) {
  std::array<char, 64> name;
  std::snprintf(name.data(), name.size(), "map_files/%llx-%llx",
                static_cast<unsigned long long>(vma.begin),
                static_cast<unsigned long long>(vma.end));
  Fd file(openat(directory, name.data(), O_PATH | O_CLOEXEC));
  if (!file) return fail(errno);
  return file;
}

bool can_be_shared(const Vma& vma) { return vma.shared && vma.inode != 0; }

bool continues(const Vma& vma, const Vma& next) {
  return next.begin == vma.end && can_be_shared(next) && next.device == vma.device &&
         next.inode == vma.inode && next.offset == vma.offset + (vma.end - vma.begin);
}

}  // namespace

Result<std::shared_ptr<ProcessAddressSpace>> ProcessAddressSpace::open(pid_t thread_group,
                                                                       pid_t tid) {
  auto directory = open_proc_directory(thread_group);
  if (!directory) return std::unexpected(directory.error());
  // By the thread: the leader may have exited before the rest of its group, and then shows no
  // memory.
  const auto thread = open_proc_directory(tid);
  if (!thread) return std::unexpected(thread.error());
  auto memory = RemoteMemory::open(thread->get());
  if (!memory) return std::unexpected(memory.error());
  AuxvBuffer auxv;
  std::shared_ptr<ProcessAddressSpace> space(
      new ProcessAddressSpace(thread_group, std::move(*directory), std::move(*memory),
                              std::string(read_auxv(thread->get(), auxv))));
  // Also when the files above were opened on both sides of an exec.
  if (!space->is_of(tid)) return fail(ESRCH);
  space->sample_locked(thread->get());
  return space;
}

// That the address space is alive does not say whose it is. Memory can be shared beyond the process
// (vfork, CLONE_VM): then it survives the exec or the exit of the one that we knew it by, and even
// the recycling of its pid. There is no number for an address space, but the kernel keeps the
// auxiliary vector of each exec, and its randomised addresses tell two of them apart.
bool ProcessAddressSpace::is_of(pid_t tid) const {
  if (!alive()) return false;
  AuxvBuffer buffer;
  std::string_view auxv = read_auxv(directory_.get(), buffer);
  if (auxv.empty()) {  // the leader has exited, or it is another process altogether
    const auto thread = open_proc_directory(tid);
    if (thread) auxv = read_auxv(thread->get(), buffer);
  }
  return !auxv.empty() && auxv == auxv_;
}

void ProcessAddressSpace::sample_locked(int thread) {
  rlimit limit{};
  if (prlimit(thread_group_, RLIMIT_MEMLOCK, nullptr, &limit) == 0) {
    sampled_limit_ = limit.rlim_cur;
  } else {
    // Another user's limits take CAP_SYS_RESOURCE to ask for, but anybody may read them.
    may_ask_limit_ = false;
    sampled_limit_ =
        number_after(read_file(directory_.get(), "limits"), "Max locked memory", RLIM_INFINITY);
  }
  if (sampled_limit_ == RLIM_INFINITY) return;
  constexpr std::uint64_t kib_per_page = kPageSize / 1024;
  locked_by_client_ = number_after(read_file(thread, "status"), "VmLck:", 0) / kib_per_page;
}

std::uint64_t ProcessAddressSpace::lock_limit() const {
  std::uint64_t bytes = sampled_limit_;
  if (may_ask_limit_.load(std::memory_order_relaxed)) {
    rlimit limit{};
    // Fails for a dead client, whose last limit is as good as any.
    if (prlimit(thread_group_, RLIMIT_MEMLOCK, nullptr, &limit) == 0) {
      bytes = limit.rlim_cur;
    }
  }
  if (bytes == RLIM_INFINITY) return std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t pages = bytes >> kPageShift;
  return pages - std::min(pages, locked_by_client_);
}

Result<ProcessAddressSpace::Run> ProcessAddressSpace::find_run(std::uint64_t vaddr,
                                                               std::uint64_t size,
                                                               bool write) const {
  if (size == 0 || size > std::numeric_limits<std::uint64_t>::max() - vaddr) return fail(EFAULT);
  const auto first = memory_.maps().find(vaddr);
  if (!first) return std::unexpected(first.error());
  if (!first->admits(write)) return fail(EFAULT);

  Run run{.file = {.device = first->device, .inode = first->inode, .writable = first->writable},
          .range = {.offset = first->offset, .size = first->end - first->begin},
          .first = *first};
  bool one_file = can_be_shared(*first);
  Vma last = *first;
  while (one_file && last.end < vaddr + size) {
    const auto next = memory_.maps().find(last.end);
    if (!next) return std::unexpected(next.error());
    if (!next->admits(write)) return fail(EFAULT);
    one_file = continues(last, *next);
    run.file.writable = run.file.writable && next->writable;
    run.range.size = next->end - first->begin;
    last = *next;
  }
  if (one_file) return run;
  // EOPNOTSUPP promises that the rest is accessible, too.
  if (const auto ok = memory_.maps().check(vaddr, size, write); !ok) {
    return std::unexpected(ok.error());
  }
  return fail(EOPNOTSUPP);
}

// /proc/<thread> of one that still has the memory, when the leader has exited before its group.
// Invalid: none has.
Fd ProcessAddressSpace::other_thread() const {
  const auto close = [](DIR* directory) { closedir(directory); };
  Fd tasks(openat(directory_.get(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, decltype(close)> threads(tasks ? fdopendir(tasks.get()) : nullptr);
  if (threads == nullptr) return {};
  static_cast<void>(tasks.release());
  while (const dirent* const entry = readdir(threads.get())) {
    auto thread = open_proc_directory(std::atoi(entry->d_name));  // "." is 0, which is nobody
    if (thread && has_memory(thread->get())) return std::move(*thread);
  }
  return {};
}

// EAGAIN: the client changed its mappings meanwhile. EOPNOTSUPP: for whatever reason, copy instead.
Result<std::shared_ptr<Window>> ProcessAddressSpace::make_window(const Run& run) const {
  if (!may_open_map_files.load(std::memory_order_relaxed)) return fail(EOPNOTSUPP);
  auto path = open_mapped_file(directory_.get(), run.first);
  if (!path && !has_memory(directory_.get())) {
    path = open_mapped_file(other_thread().get(), run.first);
  }
  if (!path) {
    if (path.error() == Errno{ENOENT}) return fail(EAGAIN);
    if (path.error() == Errno{EPERM}) may_open_map_files.store(false, std::memory_order_relaxed);
    return fail(EOPNOTSUPP);
  }
  struct stat file {};
  struct statfs file_system {};
  if (fstat(path->get(), &file) != 0 || fstatfs(path->get(), &file_system) != 0) {
    return fail(EOPNOTSUPP);
  }
  // The question went by pid; that it is the file of this address space, its identity proves.
  if (file.st_dev != run.file.device || file.st_ino != run.file.inode) return fail(EAGAIN);
  // In any other file our page faults could wait for the client, or for a network.
  const bool huge = file_system.f_type == HUGETLBFS_MAGIC;
  if (!S_ISREG(file.st_mode) || (file_system.f_type != TMPFS_MAGIC && !huge)) {
    return fail(EOPNOTSUPP);
  }
  const std::string link = "/proc/self/fd/" + std::to_string(path->get());
  // O_NONBLOCK: the client may hold a lease on its file, and an open would wait for it.
  const Fd opened(::open(
      link.c_str(), (run.file.writable ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!opened) return fail(EOPNOTSUPP);
  auto window = Window::map(opened.get(), run.range,
                            huge ? static_cast<std::uint64_t>(file_system.f_bsize) : kPageSize,
                            run.file.writable);
  if (!window) return fail(EOPNOTSUPP);
  return window;
}

Result<View> ProcessAddressSpace::view(std::uint64_t vaddr, std::uint64_t size, bool write) {
  constexpr int kAttempts = 4;  // a client that keeps changing its mappings gets a copy
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto run = find_run(vaddr, size, write);
    if (!run) return std::unexpected(run.error());
    const FileRange part{.offset = run->range.offset + (vaddr - run->first.begin), .size = size};
    std::shared_ptr<Window> window;
    {
      const std::scoped_lock lock(windows_mutex_);
      window = windows_.find(run->file, part);
      if (window == nullptr) {
        auto made = make_window(*run);
        if (!made && made.error() == Errno{EAGAIN}) continue;
        if (!made) return std::unexpected(made.error());
        window = std::move(*made);
        windows_.insert(run->file, window);
      }
    }
    // The file may be shorter than its mapping, which get_user_pages would notice.
    if (const auto ok = memory_.probe(vaddr + size - 1); !ok) return std::unexpected(ok.error());
    std::byte* const host = window->at(part.offset);
    return View{.host = host, .owner = std::move(window)};
  }
  return fail(EOPNOTSUPP);
}

}  // namespace uvfio::memory
