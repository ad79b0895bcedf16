#include <algorithm>

#include "iommu/iommu.h"
#include "uvfio/vfio.h"

namespace uvfio::vfio {

Container::~Container() = default;

int Container::check_extension(std::uint64_t extension) {
  const std::shared_lock lock(group_lock_);
  if (iommu_) return iommu_->check_extension(extension);
  for (const auto& driver : vfio_.iommu_drivers()) {
    if (const int answer = driver->check_extension(extension); answer > 0) return answer;
  }
  return 0;
}

Status Container::set_iommu(std::uint64_t type) {
  const std::unique_lock lock(group_lock_);
  if (groups_.empty() || iommu_) return fail(EINVAL);
  Status result = fail(ENODEV);
  for (const auto& driver : vfio_.iommu_drivers()) {
    if (driver->check_extension(type) <= 0) continue;
    auto iommu = driver->open(type, number_);
    if (!iommu) {
      result = std::unexpected(iommu.error());
      continue;
    }
    std::size_t attached = 0;
    for (result = {}; attached < groups_.size(); ++attached) {
      result = (*iommu)->attach_group(groups_[attached]->iommu_group());
      if (!result) break;
    }
    if (result) {
      iommu_ = std::move(*iommu);
      return {};
    }
    while (attached > 0) (*iommu)->detach_group(groups_[--attached]->iommu_group());
  }
  return result;
}

std::vector<unsigned> Container::group_ids() const {
  const std::shared_lock lock(group_lock_);
  std::vector<unsigned> ids;
  for (const Group* group : groups_) ids.push_back(group->id());
  return ids;
}

std::shared_ptr<iommu::Iommu> Container::iommu() const {
  const std::shared_lock lock(group_lock_);
  return iommu_;
}

Status Container::attach_group(Group& group) {
  const std::unique_lock lock(group_lock_);
  const bool real = group.type() == iommu::GroupType::real;
  if (real) {
    if (auto claimed = group.iommu_group().claim_dma_owner(); !claimed) return claimed;
  }
  if (iommu_) {
    if (auto attached = iommu_->attach_group(group.iommu_group()); !attached) {
      if (real) group.iommu_group().release_dma_owner();
      return attached;
    }
  }
  groups_.push_back(&group);
  return {};
}

void Container::detach_group(Group& group) {
  const std::unique_lock lock(group_lock_);
  if (iommu_) iommu_->detach_group(group.iommu_group());
  if (group.type() == iommu::GroupType::real) group.iommu_group().release_dma_owner();
  std::erase(groups_, &group);
  if (groups_.empty()) iommu_.reset();
}

}  // namespace uvfio::vfio
