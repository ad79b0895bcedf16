#include "iommu/type1/mapping.h"

namespace uvfio::iommu::type1 {

Status Mapping::resolve() {
  if (reach() != Reach::unknown) return {};
  const bool writable = vfio::allows(prot, vfio::Prot::write);
  auto view = space->view(vaddr, size(), writable);
  if (view) {
    view_owner_ = std::move(view->owner);
    host_ = view->host;
    reach_.store(Reach::direct, std::memory_order_release);
    return {};
  }
  // EFAULT: some page is missing, or does not admit what the mapping does. The kernel minds only the
  // pages that are touched, so each access is left to find out.
  if (view.error() != Errno{EOPNOTSUPP} && view.error() != Errno{EFAULT}) {
    return std::unexpected(view.error());
  }
  reach_.store(Reach::copy, std::memory_order_release);
  return {};
}

}  // namespace uvfio::iommu::type1
