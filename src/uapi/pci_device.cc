// The ioctls that only PCI devices have.
#include <linux/vfio.h>

#include <bit>
#include <vector>

#include "uapi/handlers.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {

Result<int> pci_hot_reset_info(vfio::PciDevice& device, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_pci_hot_reset_info, count);
  static_assert(sizeof(vfio_pci_dependent_device) == 8);
  vfio_pci_hot_reset_info header{};
  if (auto copied = copy_sized_struct_in(caller, arg, header, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  const auto set = device.hot_reset_set();
  if (!set) return std::unexpected(set.error());
  header.flags = 0;
  header.count = static_cast<std::uint32_t>(set->size());
  if (set->size() > (header.argsz - kMinSize) / sizeof(vfio_pci_dependent_device)) {
    if (auto copied = copy_struct_out(caller, arg, header, kMinSize); !copied) return copied;
    return fail(ENOSPC);
  }
  std::vector<vfio_pci_dependent_device> devices;
  for (const auto& dependent : *set) {
    if (!dependent.group) return fail(EPERM);
    vfio_pci_dependent_device entry{};
    entry.group_id = *dependent.group;
    entry.segment = dependent.segment;
    entry.bus = dependent.bus;
    entry.devfn = dependent.devfn;
    devices.push_back(entry);
  }
  if (auto copied = caller.copy_out(arg + kMinSize, std::as_bytes(std::span(devices))); !copied) {
    return std::unexpected(copied.error());
  }
  return copy_struct_out(caller, arg, header, kMinSize);
}

// As in vfio_pci_ioctl_pci_hot_reset, argsz is not compared with count.
Result<int> pci_hot_reset(vfio::PciDevice& device, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_pci_hot_reset, count);
  vfio_pci_hot_reset header{};
  if (auto copied = copy_sized_struct_in(caller, arg, header, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  if (header.flags != 0) return fail(EINVAL);
  if (header.count == 0) return fail(EINVAL);  // means a device that was opened by its cdev
  const auto set = device.hot_reset_set();
  if (!set) return std::unexpected(set.error());
  // A group has at least one device, so that there cannot be more.
  if (header.count > set->size()) return fail(EINVAL);
  std::vector<std::int32_t> fds(header.count);
  if (auto copied = caller.copy_in(arg + kMinSize, std::as_writable_bytes(std::span(fds)));
      !copied) {
    return std::unexpected(copied.error());
  }
  std::vector<std::shared_ptr<vfio::GroupFile>> groups;
  for (const std::int32_t fd : fds) {
    auto group = caller.group(fd);
    if (!group) return std::unexpected(group.error());
    groups.push_back(std::move(*group));
  }
  return done(device.hot_reset(groups));
}

Result<int> pci_ioeventfd(vfio::PciDevice& device, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_device_ioeventfd, fd);
  vfio_device_ioeventfd request{};
  if (auto copied = copy_sized_struct_in(caller, arg, request, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  // The bits of the flags are the sizes.
  constexpr std::uint32_t kSizes = VFIO_DEVICE_IOEVENTFD_SIZE_MASK;
  if ((request.flags & ~kSizes) != 0) return fail(EINVAL);
  if (!std::has_single_bit(request.flags) || request.fd < -1) return fail(EINVAL);
  return done(device.set_ioeventfd({.position = request.offset,
                                    .data = request.data,
                                    .width = request.flags,
                                    .fd = request.fd,
                                    .fd_source = &caller}));
}

}  // namespace uvfio::uapi
