#include "uvfio/host.h"

#include "iommu/type1/type1.h"
#include "vfio_pci/driver.h"

namespace uvfio {

Host::Host(unsigned first_group)
    : vfio_(first_group),
      mdev_(vfio_),
      pci_(vfio_),
      vfio_pci_(std::make_unique<vfio_pci::Driver>(vfio_)) {
  vfio_.register_iommu_driver(std::make_unique<iommu::type1::Type1Driver>(type1_parameters_));
  static_cast<void>(pci_.register_driver(*vfio_pci_));  // the first of its name
}

Host::~Host() { pci_.unregister_driver(*vfio_pci_); }

}  // namespace uvfio
