// Who makes a request: the way from the uapi layer back to the client's memory and descriptors.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "uvfio/device.h"
#include "uvfio/memory.h"
#include "uvfio/vfio.h"

namespace uvfio::uapi {

// The kernel's `current`, for the length of one request. Used by the thread that serves the
// request.
class Caller : public vfio::FdSource {
 public:
  // copy_from_user, copy_to_user: all or EFAULT (part of it may have been copied).
  [[nodiscard]] virtual Status copy_in(std::uint64_t user, std::span<std::byte> data) = 0;
  [[nodiscard]] virtual Status copy_out(std::uint64_t user, std::span<const std::byte> data) = 0;

  // The container behind one of the client's descriptors. EBADF: not open. EBADFD: something else.
  [[nodiscard]] virtual Result<std::shared_ptr<vfio::Container>> container(int fd) = 0;

  // The group behind one of the client's descriptors. EBADF: not open. EINVAL: something else.
  [[nodiscard]] virtual Result<std::shared_ptr<vfio::GroupFile>> group(int fd) = 0;

  // The client's address space, which outlives the request (and maybe the client).
  [[nodiscard]] virtual Result<std::shared_ptr<memory::AddressSpace>> address_space() = 0;

  // CAP_IPC_LOCK in the initial user namespace.
  [[nodiscard]] virtual bool can_lock_memory() = 0;

  // Does mmap on a device's descriptor work? If not, regions do not claim it.
  [[nodiscard]] virtual bool can_mmap() const = 0;

  // Gives the client a new descriptor (O_CLOEXEC) and returns its number. EMFILE; EOPNOTSUPP where
  // the door has no way to do so.
  [[nodiscard]] virtual Result<int> install(std::shared_ptr<vfio::DeviceFile> file) = 0;
  [[nodiscard]] virtual Result<int> install(std::shared_ptr<vfio::MigrationStream> stream,
                                            bool readable) = 0;
};

}  // namespace uvfio::uapi
