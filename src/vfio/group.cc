#include <algorithm>

#include "iommu/iommu.h"
#include "uvfio/vfio.h"

namespace uvfio::vfio {

std::shared_ptr<Container> Group::container() const {
  const std::scoped_lock lock(lock_);
  return container_;
}

Result<std::shared_ptr<GroupFile>> Group::open() {
  const std::scoped_lock lock(lock_);
  if (unplugged_) return fail(ENODEV);
  if (opened_) return fail(EBUSY);
  opened_ = true;
  return std::shared_ptr<GroupFile>(new GroupFile(shared_from_this()));
}

std::vector<std::shared_ptr<Device>> Group::devices() const {
  const std::scoped_lock lock(device_lock_);
  return devices_;
}

void Group::detach_container_locked() {
  if (!container_) return;
  container_->detach_group(*this);
  container_.reset();
  container_users_ = 0;
}

Status Group::use_container_locked() {
  if (!container_->iommu()) return fail(EINVAL);
  ++container_users_;
  return {};
}

void Group::unuse_container_locked() { --container_users_; }

GroupFile::~GroupFile() {
  const std::scoped_lock lock(group_->lock_);
  group_->detach_container_locked();
  group_->opened_ = false;
}

Result<std::uint32_t> GroupFile::status() const {
  const std::scoped_lock lock(group_->lock_);
  if (group_->unplugged_) return fail(ENODEV);
  if (group_->container_) return VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE;
  return group_->iommu_group_->dma_owner_claimable() ? VFIO_GROUP_FLAGS_VIABLE : 0u;
}

Status GroupFile::set_container(const std::shared_ptr<Container>& container) {
  const std::scoped_lock lock(group_->lock_);
  if (group_->container_) return fail(EINVAL);
  if (group_->unplugged_) return fail(ENODEV);
  if (!container) return fail(EBADFD);
  if (auto attached = container->attach_group(*group_); !attached) return attached;
  group_->container_ = container;
  group_->container_users_ = 1;
  return {};
}

Status GroupFile::unset_container() {
  const std::scoped_lock lock(group_->lock_);
  if (!group_->container_) return fail(EINVAL);
  if (group_->container_users_ != 1) return fail(EBUSY);
  group_->detach_container_locked();
  return {};
}

Result<std::shared_ptr<DeviceFile>> GroupFile::get_device(const std::shared_ptr<GroupFile>& self,
                                                          std::string_view name) {
  Group& group = *self->group_;
  std::shared_ptr<Device> device;
  {
    // A user counts from here on, so that a device which is found cannot be unregistered under us.
    const std::scoped_lock lock(group.device_lock_);
    for (const auto& candidate : group.devices_) {
      const auto matches = candidate->ops().match(candidate->name(), name);
      if (!matches) return std::unexpected(matches.error());
      if (!*matches) continue;
      device = candidate;
      device->get();
      break;
    }
  }
  if (!device) return fail(ENODEV);
  if (auto opened = device->open(); !opened) {
    device->put();
    return std::unexpected(opened.error());
  }
  return std::shared_ptr<DeviceFile>(new DeviceFile(self, std::move(device)));
}

}  // namespace uvfio::vfio
