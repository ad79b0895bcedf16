#include "uvfio/device.h"

namespace uvfio::vfio {

Result<EventFd> IrqSet::eventfd(std::size_t i) const {
  if (i >= fds.size() || fds[i] < 0 || fd_source == nullptr) return fail(EBADF);
  Result<Fd> fd = fd_source->get(fds[i]);
  if (!fd) return std::unexpected(fd.error());
  return EventFd::from(std::move(*fd));
}

bool IrqSet::complete() const {
  switch (data()) {
    case VFIO_IRQ_SET_DATA_NONE:
      return true;
    case VFIO_IRQ_SET_DATA_BOOL:
      return bools.size() >= count;
    case VFIO_IRQ_SET_DATA_EVENTFD:
      return fds.size() >= count;
    default:
      return false;
  }
}

}  // namespace uvfio::vfio
