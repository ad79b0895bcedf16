#include <linux/vfio.h>

#include <algorithm>

#include "uapi/capability_chain.h"
#include "uapi/handlers.h"
#include "uapi/ioctl.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {
namespace {

Result<int> get_info(vfio::DeviceOps& device, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_device_info, num_irqs);
  vfio_device_info info{};
  if (auto copied = copy_sized_struct_in(caller, arg, info, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  const auto answer = device.info();
  info.flags = answer.flags;
  info.num_regions = answer.num_regions;
  info.num_irqs = answer.num_irqs;
  if (device.pci() == nullptr) return copy_struct_out(caller, arg, info, kMinSize);
  // vfio-pci gives back as much of the struct as the client knows.
  struct {
    vfio_device_info info;
    std::uint32_t pad;  // in newer headers part of the struct
  } whole{.info = info, .pad = 0};
  static_assert(sizeof whole == 24);
  return copy_struct_out(caller, arg, whole, std::min<std::size_t>(info.argsz, sizeof whole));
}

Result<int> get_region_info(vfio::DeviceOps& device, Caller& caller, std::uint64_t arg) {
  vfio_region_info info{};
  if (auto copied = copy_sized_struct_in(caller, arg, info, sizeof(vfio_region_info)); !copied) {
    return std::unexpected(copied.error());
  }
  const auto answer = device.region_info(info.index);
  if (!answer) return std::unexpected(answer.error());
  info.flags = answer->flags;
  info.size = answer->size;
  info.offset = answer->offset;
  if (!caller.can_mmap()) info.flags &= ~static_cast<std::uint32_t>(VFIO_REGION_INFO_FLAG_MMAP);
  CapabilityChain chain;
  for (const auto& capability : answer->capabilities) {
    chain.add(capability.id, capability.version, capability.payload);
  }
  if (auto attached = chain.attach_to(caller, arg, info, VFIO_REGION_INFO_FLAG_CAPS); !attached) {
    return std::unexpected(attached.error());
  }
  return copy_struct_out(caller, arg, info);
}

Result<int> get_irq_info(vfio::DeviceOps& device, Caller& caller, std::uint64_t arg) {
  vfio_irq_info info{};
  if (auto copied = copy_sized_struct_in(caller, arg, info, sizeof(vfio_irq_info)); !copied) {
    return std::unexpected(copied.error());
  }
  const auto answer = device.irq_info(info.index);
  if (!answer) return std::unexpected(answer.error());
  info.flags = answer->flags;
  info.count = answer->count;
  return copy_struct_out(caller, arg, info);
}

}  // namespace

Result<int> device_ioctl(vfio::DeviceFile& device, Caller& caller, std::uint32_t command,
                         std::uint64_t arg) {
  vfio::DeviceOps& ops = device.ops();
  vfio::PciDevice* const pci = ops.pci();
  if (pci != nullptr) pci->resume();
  switch (command) {
    case VFIO_DEVICE_GET_INFO:
      return get_info(ops, caller, arg);
    case VFIO_DEVICE_GET_REGION_INFO:
      return get_region_info(ops, caller, arg);
    case VFIO_DEVICE_GET_IRQ_INFO:
      return get_irq_info(ops, caller, arg);
    case VFIO_DEVICE_SET_IRQS:
      return device_set_irqs(ops, caller, arg);
    case VFIO_DEVICE_RESET:
      return done(ops.reset());
    case VFIO_DEVICE_FEATURE:
      return device_feature(ops, caller, arg);
    default:
      break;
  }
  if (pci == nullptr) return fail(ENOTTY);
  switch (command) {
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
      return pci_hot_reset_info(*pci, caller, arg);
    case VFIO_DEVICE_PCI_HOT_RESET:
      return pci_hot_reset(*pci, caller, arg);
    case VFIO_DEVICE_IOEVENTFD:
      return pci_ioeventfd(*pci, caller, arg);
    default:
      return fail(ENOTTY);
  }
}

}  // namespace uvfio::uapi
