// An eventfd of a client whose signals call back (drivers/vfio/virqfd.c): unmask eventfds,
// ioeventfds.
#pragma once

#include <functional>
#include <memory>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::vfio {

// A place for one watched eventfd. All of the process's are watched by one thread, which calls the
// handlers: they are short and never block. Unlike the kernel's, a client that closes its eventfd
// does not detach it: our reference keeps the file.
class Virqfd {
 public:
  using Handler = std::function<void()>;

  Virqfd() = default;
  ~Virqfd() { disable(); }
  Virqfd(Virqfd&&) = default;
  Virqfd& operator=(Virqfd&&) = delete;

  // Calls `handler` for every signal of `event` from now on, after taking its count; at once, from
  // here, for a count that is there already. EBUSY: one is attached. ENOMEM, ENOSPC: no room to
  // watch it.
  [[nodiscard]] Status enable(EventFd event, Handler handler);
  // On return the handler does not run and will not again. Not from the handler. Nothing to do if
  // none is attached. Neither this nor enable() may run beside themselves for one object.
  void disable();

 private:
  struct Watch;
  class Poller;
  std::shared_ptr<Watch> watch_;
};

}  // namespace uvfio::vfio
