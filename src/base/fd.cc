#include "uvfio/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>
#include <string_view>

#include "base/event_signal.h"

namespace uvfio {

void Fd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

Result<Fd> Fd::duplicate() const {
  const int copy = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail(errno);
  return Fd(copy);
}

Result<EventFd> EventFd::from(Fd fd) {
  // There is no system call that asks; the link's text is ABI.
  std::array<char, 64> target{};
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const ssize_t length = readlink(path.c_str(), target.data(), target.size());
  if (length < 0 ||
      std::string_view(target.data(), static_cast<std::size_t>(length)) != "anon_inode:[eventfd]") {
    return fail(EINVAL);
  }
  return EventFd(std::move(fd));
}

std::uint64_t EventFd::count() const {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd_.get()));
  std::string label;
  while (info >> label) {
    std::uint64_t count = 0;
    if (label == "eventfd-count:" && info >> std::hex >> count) return count;
  }
  return 0;
}

Result<EventFd> EventFd::create() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail(errno);
  return EventFd(Fd(fd));
}

EventFd::EventFd(Fd fd) : fd_(std::move(fd)) { prepare_to_signal(); }

void EventFd::signal() const {
  if (signal_without_waiting(fd_.get())) [[likely]]
    return;
  // Without AIO the counter is looked at first. It can fill up before the write, which then waits
  // for the client if the file blocks; there is nothing better.
  if ((fcntl(fd_.get(), F_GETFL) & O_NONBLOCK) == 0) {
    pollfd ready{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, 0) != 1) return;
  }
  const std::uint64_t one = 1;
  static_cast<void>(!write(fd_.get(), &one, sizeof one));
}

bool EventFd::consume() const {
  std::uint64_t count = 0;
  const iovec target{.iov_base = &count, .iov_len = sizeof count};
  return preadv2(fd_.get(), &target, 1, -1, RWF_NOWAIT) == sizeof count;
}

}  // namespace uvfio
