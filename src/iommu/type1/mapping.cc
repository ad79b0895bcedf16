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
  // EFAULT: some page is missing, or does not admit what the mapping does. The kernel minds only
  // the pages that are touched, so each access is left to find out.
  if (view.error() != Errno{EOPNOTSUPP} && view.error() != Errno{EFAULT}) {
    return std::unexpected(view.error());
  }
  reach_.store(Reach::copy, std::memory_order_release);
  return {};
}

void Mapping::adopt_reach(const Mapping& other) {
  // Memory that is shared stays where it is; what is copied comes from the new address.
  if (other.reach() != Reach::direct) return;
  view_owner_ = other.view_owner_;
  host_ = other.host_;
  reach_.store(Reach::direct, std::memory_order_release);
}

}  // namespace uvfio::iommu::type1
