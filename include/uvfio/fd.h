// File descriptors with an owner.
#pragma once

#include <cstdint>
#include <utility>

#include "uvfio/error.h"

namespace uvfio {

// Owns one file descriptor, or none (-1). Move only.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

  // A duplicate with O_CLOEXEC; EMFILE and the like.
  [[nodiscard]] Result<Fd> duplicate() const;

 private:
  int fd_ = -1;
};

// The kernel's eventfd_ctx: the signalling end of an eventfd. Thread-safe.
class EventFd {
 public:
  // Takes over `fd`. EINVAL when it is not an eventfd (eventfd_ctx_fileget).
  [[nodiscard]] static Result<EventFd> from(Fd fd);
  // A new non-blocking eventfd with counter 0.
  [[nodiscard]] static Result<EventFd> create();

  // Adds 1 to the counter, which stays at its end (eventfd_signal). Never blocks, whatever the
  // client does to its eventfd meanwhile.
  void signal() const;
  // Takes what is in the counter (1 of it from a semaphore), as a read does; false if it is 0.
  // Never blocks, whatever the flags of the client's descriptor.
  [[nodiscard]] bool consume() const;
  // What is in the counter, which stays. 0 also where /proc is not there to tell.
  [[nodiscard]] std::uint64_t count() const;
  [[nodiscard]] int get() const { return fd_.get(); }

 private:
  explicit EventFd(Fd fd);
  Fd fd_;
};

}  // namespace uvfio
