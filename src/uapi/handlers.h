// Handlers that have a file of their own, for the dispatchers of this folder.
#pragma once

#include <cstdint>

#include "iommu/type1/type1.h"
#include "uapi/caller.h"
#include "uvfio/vfio.h"

namespace uvfio::uapi {

// The ioctls of a container whose IOMMU is type1.
[[nodiscard]] Result<int> type1_ioctl(iommu::type1::Type1& iommu, Caller& caller,
                                      std::uint32_t command, std::uint64_t arg);
// VFIO_DEVICE_SET_IRQS.
[[nodiscard]] Result<int> device_set_irqs(vfio::DeviceOps& device, Caller& caller,
                                          std::uint64_t arg);
// VFIO_DEVICE_FEATURE.
[[nodiscard]] Result<int> device_feature(vfio::DeviceOps& device, Caller& caller,
                                         std::uint64_t arg);

// What only PCI devices have: GET_PCI_HOT_RESET_INFO, PCI_HOT_RESET, IOEVENTFD.
[[nodiscard]] Result<int> pci_hot_reset_info(vfio::PciDevice& device, Caller& caller,
                                             std::uint64_t arg);
[[nodiscard]] Result<int> pci_hot_reset(vfio::PciDevice& device, Caller& caller, std::uint64_t arg);
[[nodiscard]] Result<int> pci_ioeventfd(vfio::PciDevice& device, Caller& caller, std::uint64_t arg);

}  // namespace uvfio::uapi
