// The emulated host: everything that a kernel has one of.
#pragma once

#include <memory>

#include "uvfio/mdev.h"
#include "uvfio/pci_bus.h"
#include "uvfio/type1_parameters.h"
#include "uvfio/vfio.h"

namespace uvfio {

// One host with VFIO, the IOMMU drivers, the mdev bus, and the PCI bus with its driver vfio-pci. A
// program may have several.
class Host {
 public:
  // Group numbers start at `first_group`, so that they do not collide with those of the machine.
  explicit Host(unsigned first_group = 0);
  // Waits for the users of devices that vfio-pci has.
  ~Host();
  Host(const Host&) = delete;

  [[nodiscard]] vfio::Vfio& vfio() { return vfio_; }
  [[nodiscard]] mdev::Bus& mdev() { return mdev_; }
  // For containers to come, and those that there are.
  [[nodiscard]] iommu::type1::Parameters& type1_parameters() { return *type1_parameters_; }
  [[nodiscard]] pci::Bus& pci() { return pci_; }

 private:
  const std::shared_ptr<iommu::type1::Parameters> type1_parameters_ =
      std::make_shared<iommu::type1::Parameters>();
  vfio::Vfio vfio_;
  mdev::Bus mdev_;
  pci::Bus pci_;
  const std::unique_ptr<pci::Driver> vfio_pci_;
};

}  // namespace uvfio
