#include <linux/vfio.h>

#include "uapi/handlers.h"
#include "uapi/ioctl.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {

Result<int> container_ioctl(vfio::Container& container, Caller& caller, std::uint32_t command,
                            std::uint64_t arg) {
  switch (command) {
    case VFIO_GET_API_VERSION:
      return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
      return container.check_extension(arg);
    case VFIO_SET_IOMMU:
      return done(container.set_iommu(arg));
    default:
      break;
  }
  const auto iommu = container.iommu();
  if (!iommu) return fail(EINVAL);  // not ENOTTY: clients rely on it
  if (auto* type1 = dynamic_cast<iommu::type1::Type1*>(iommu.get())) {
    return type1_ioctl(*type1, caller, command, arg);
  }
  return fail(ENOTTY);
}

}  // namespace uvfio::uapi
