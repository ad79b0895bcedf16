#include "nodes/open_vfio.h"

#include <linux/vfio.h>

#include "nodes/trace.h"
#include "uapi/ioctl.h"

namespace uvfio::nodes {
namespace {

Ties ties_of(const vfio::Group& group) {
  return {.group = &group, .container = group.container().get()};
}

}  // namespace

Result<int> OpenContainer::ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) {
  ProcessCaller caller(clients_, thread);
  const auto result = uapi::container_ioctl(*container_, caller, command, arg);
  if (auto used = caller.used_space(); used != nullptr) {
    const std::lock_guard lock(mutex_);
    mapper_.swap(used);
  }
  return traced(FileKind::container, thread, command, result);
}

Result<int> OpenGroup::ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) {
  ProcessCaller caller(clients_, thread);
  return traced(FileKind::group, thread, command, uapi::group_ioctl(group_, caller, command, arg));
}

bool OpenGroup::asks_back(std::uint32_t command) const {
  return command == VFIO_GROUP_SET_CONTAINER;
}

Ties OpenGroup::ties() const { return ties_of(group_->group()); }
Ties OpenDevice::ties() const { return ties_of(device_->device().group()); }

// Every answer but one depends on which groups are still open.
bool OpenContainer::settled(std::uint32_t command) const { return command != VFIO_GET_API_VERSION; }

bool OpenDevice::asks_back(std::uint32_t command) const {
  return command == VFIO_DEVICE_PCI_HOT_RESET;
}

Result<std::size_t> OpenDevice::read(std::uint64_t position, std::span<std::byte> data) {
  return device_->ops().read(position, data);
}

Result<std::size_t> OpenDevice::write(std::uint64_t position, std::span<const std::byte> data) {
  return device_->ops().write(position, data);
}

Result<int> OpenDevice::ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) {
  ProcessCaller caller(clients_, thread);
  return traced(FileKind::device, thread, command,
                uapi::device_ioctl(*device_, caller, command, arg));
}

Result<std::size_t> OpenStream::read(std::uint64_t, std::span<std::byte> data) {
  return stream_->read(data);
}

Result<std::size_t> OpenStream::write(std::uint64_t, std::span<const std::byte> data) {
  return stream_->write(data);
}

Result<int> OpenStream::ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg) {
  ProcessCaller caller(clients_, thread);
  return traced(FileKind::stream, thread, command,
                uapi::migration_ioctl(*stream_, caller, command, arg));
}

}  // namespace uvfio::nodes
