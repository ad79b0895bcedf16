#include "memory/remote_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>

namespace uvfio::memory {
namespace {

// The result of a pread or pwrite that moved nothing.
Status no_progress(ssize_t result) { return fail(result == 0 ? ESRCH : EFAULT); }

}  // namespace

int proc_error(int error) {
  switch (error) {
    case ENOENT:
      return ESRCH;
    case EPERM:
      return EACCES;
    default:
      return error;
  }
}

Result<Fd> open_proc_directory(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid);
  Fd directory(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return fail(proc_error(errno));
  return directory;
}

Result<RemoteMemory> RemoteMemory::open(int directory) {
  Fd mem(openat(directory, "mem", O_RDWR | O_CLOEXEC));
  if (!mem) return fail(proc_error(errno));
  Fd maps(openat(directory, "maps", O_RDONLY | O_CLOEXEC));
  if (!maps) return fail(proc_error(errno));
  return RemoteMemory(std::move(mem), std::make_unique<VmaReader>(std::move(maps)));
}

bool RemoteMemory::alive() const {
  // Whether a page is there or not (EIO): only an address space that is gone reads as nothing.
  std::byte byte{};
  return pread(mem_.get(), &byte, 1, 0) != 0;
}

Status RemoteMemory::read(std::uint64_t vaddr, std::span<std::byte> data) const {
  if (const auto ok = maps_->check(vaddr, data.size(), false); !ok) return ok;
  while (!data.empty()) {
    const ssize_t length = pread(mem_.get(), data.data(), data.size(), static_cast<off_t>(vaddr));
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return no_progress(length);
    data = data.subspan(static_cast<std::size_t>(length));
    vaddr += static_cast<std::uint64_t>(length);
  }
  return {};
}

Status RemoteMemory::write(std::uint64_t vaddr, std::span<const std::byte> data) const {
  if (const auto ok = maps_->check(vaddr, data.size(), true); !ok) return ok;
  while (!data.empty()) {
    const ssize_t length = pwrite(mem_.get(), data.data(), data.size(), static_cast<off_t>(vaddr));
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return no_progress(length);
    data = data.subspan(static_cast<std::size_t>(length));
    vaddr += static_cast<std::uint64_t>(length);
  }
  return {};
}

Status RemoteMemory::probe(std::uint64_t vaddr) const {
  std::byte byte{};
  ssize_t length = 0;
  do {
    length = pread(mem_.get(), &byte, 1, static_cast<off_t>(vaddr));
  } while (length < 0 && errno == EINTR);
  if (length <= 0) return no_progress(length);
  return {};
}

}  // namespace uvfio::memory
