#include "uvfio/device.h"

namespace uvfio::vfio {

Result<EventFd> IrqSet::eventfd(std::size_t i) const {
  if (i >= fds.size() || fds[i] < 0 || fd_source == nullptr) return fail(EBADF);
  Result<Fd> fd = fd_source->get(fds[i]);
  if (!fd) return std::unexpected(fd.error());
  return EventFd::from(std::move(*fd));
}

}  // namespace uvfio::vfio
