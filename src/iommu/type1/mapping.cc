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
  if (view.error() == Errno{EFAULT} && writable) {
    // A writable mapping of read-only memory may still be read: leave the decision to each access.
    const auto readable = space->check(vaddr, size(), false);
    if (!readable) return readable;
  } else if (view.error() != Errno{EOPNOTSUPP}) {
    return std::unexpected(view.error());
  }
  reach_.store(Reach::copy, std::memory_order_release);
  return {};
}

}  // namespace uvfio::iommu::type1
