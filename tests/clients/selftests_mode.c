// Linked into the kernel's VFIO selftests: the IOMMU mode of those that have no option for it.
#include <stdlib.h>

extern const char* default_iommu_mode;

__attribute__((constructor)) static void choose_iommu_mode(void) {
  const char* mode = getenv("VFIO_SELFTESTS_IOMMU_MODE");
  if (mode) default_iommu_mode = mode;
}
