// The VFIO ioctls, decoded: bytes of the client become a typed request to the core, and what the
// core answers becomes bytes and a return value. Which ioctl a number means depends on the kind of
// file (numbers are shared), so there is one entry per kind.
#pragma once

#include <cstdint>
#include <memory>

#include "uapi/caller.h"
#include "uvfio/vfio.h"

namespace uvfio::uapi {

// Each returns what ioctl(2) returns: 0 or a positive number, or the errno. `arg` is the client's
// third argument as it came, pointer or number. Thread-safe.
[[nodiscard]] Result<int> container_ioctl(vfio::Container& container, Caller& caller,
                                          std::uint32_t command, std::uint64_t arg);
[[nodiscard]] Result<int> group_ioctl(const std::shared_ptr<vfio::GroupFile>& group, Caller& caller,
                                      std::uint32_t command, std::uint64_t arg);
[[nodiscard]] Result<int> device_ioctl(vfio::DeviceFile& device, Caller& caller,
                                       std::uint32_t command, std::uint64_t arg);
// On a migration data_fd.
[[nodiscard]] Result<int> migration_ioctl(vfio::MigrationStream& stream, Caller& caller,
                                          std::uint32_t command, std::uint64_t arg);

}  // namespace uvfio::uapi
