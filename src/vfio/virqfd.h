// An eventfd of a client whose signals call back (drivers/vfio/virqfd.c): unmask eventfds,
// ioeventfds.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::vfio {

// A thread that watches eventfds and calls their handlers. It begins with the first of them and
// ends with this object, which outlives its Virqfds. Thread-safe.
class EventPoller {
 public:
  EventPoller();
  ~EventPoller();
  EventPoller(const EventPoller&) = delete;

  // The process's own, for handlers that are short and never block.
  static EventPoller& shared();

 private:
  friend class Virqfd;
  struct Watch;
  class Thread;
  Result<Thread*> thread();

  std::mutex mutex_;  // guards thread_
  std::unique_ptr<Thread> thread_;
};

// A place for one watched eventfd. Unlike the kernel's, a client that closes its eventfd does not
// detach it: our reference keeps the file.
class Virqfd {
 public:
  using Handler = std::function<void()>;

  Virqfd() = default;
  ~Virqfd() { disable(); }
  Virqfd(Virqfd&&) = default;
  Virqfd& operator=(Virqfd&&) = delete;

  // Calls `handler` for every signal of `event` from now on, after taking its count; at once, from
  // here, for a count that is there already, which stays until the next signal. EBUSY: one is
  // attached. ENOMEM, ENOSPC: no room to watch it.
  [[nodiscard]] Status enable(EventFd event, Handler handler,
                              EventPoller& poller = EventPoller::shared());
  // On return the handler does not run and will not again, and the count is 0. Not from the
  // handler. Nothing to do if none is attached. Neither this nor enable() may run beside themselves
  // for one object.
  void disable();

 private:
  EventPoller* poller_ = nullptr;
  std::shared_ptr<EventPoller::Watch> watch_;
};

}  // namespace uvfio::vfio
