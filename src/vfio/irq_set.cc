#include "uvfio/device.h"

namespace uvfio::vfio {

Result<EventFd> IrqSet::eventfd(std::size_t i) const {
  auto fd = fd_source->get(fds[i]);
  if (!fd) return std::unexpected(fd.error());
  return EventFd::from(std::move(*fd));
}

}  // namespace uvfio::vfio
