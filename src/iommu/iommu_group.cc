#include "uvfio/iommu_group.h"

#include <algorithm>

namespace uvfio::iommu {

IommuGroup::IommuGroup(unsigned id, GroupType type, std::shared_ptr<Unit> unit,
                       std::vector<ReservedRegion> reserved)
    : id_(id), type_(type), unit_(std::move(unit)), reserved_([&] {
        if (unit_) {
          const auto& more = unit_->properties().reserved;
          reserved.insert(reserved.end(), more.begin(), more.end());
        }
        std::ranges::sort(reserved, {}, &ReservedRegion::first);
        return std::move(reserved);
      }()) {}

Status IommuGroup::bind_host_driver() {
  const std::scoped_lock lock(mutex_);
  if (owned_) return fail(EBUSY);
  ++host_drivers_;
  return {};
}

void IommuGroup::unbind_host_driver() {
  const std::scoped_lock lock(mutex_);
  --host_drivers_;
}

Status IommuGroup::claim_dma_owner() {
  const std::scoped_lock lock(mutex_);
  if (owned_ || host_drivers_ != 0) return fail(EPERM);
  owned_ = true;
  return {};
}

void IommuGroup::release_dma_owner() {
  const std::scoped_lock lock(mutex_);
  owned_ = false;
}

bool IommuGroup::dma_owner_claimable() const {
  const std::scoped_lock lock(mutex_);
  return !owned_ && host_drivers_ == 0;
}

}  // namespace uvfio::iommu
