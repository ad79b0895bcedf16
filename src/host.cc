#include "uvfio/host.h"

#include "iommu/type1/type1.h"

namespace uvfio {

Host::Host(unsigned first_group) : vfio_(first_group), mdev_(vfio_) {
  vfio_.register_iommu_driver(std::make_unique<iommu::type1::Type1Driver>(type1_parameters_));
}

}  // namespace uvfio
