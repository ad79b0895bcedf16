#include "uvfio/vfio.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "iommu/iommu.h"

namespace uvfio::vfio {
namespace {

constexpr std::chrono::seconds kRequestInterval(10);

// The lowest number from `first` on that is free, as the kernel's ida does.
unsigned take_lowest(std::set<unsigned>& used, unsigned first) {
  unsigned id = first;
  for (const unsigned taken : used) {
    if (taken != id) break;
    ++id;
  }
  used.insert(id);
  return id;
}

}  // namespace

Vfio::Vfio(unsigned first_group) : first_group_(first_group) {}

Vfio::~Vfio() {
  // A group and its devices hold each other until they are unregistered.
  for (const auto& [id, group] : groups_) {
    std::vector<std::shared_ptr<Device>> devices;
    const std::scoped_lock lock(group->device_lock_);
    devices.swap(group->devices_);
  }
}

void Vfio::register_iommu_driver(std::unique_ptr<iommu::Driver> driver) {
  iommu_drivers_.push_back(std::move(driver));
}

std::shared_ptr<Container> Vfio::open_container() {
  const std::scoped_lock lock(mutex_);
  std::erase_if(containers_, [](const auto& entry) { return entry.second.expired(); });
  auto container = std::make_shared<Container>(*this, ++last_container_);
  containers_.emplace(container->number(), container);
  return container;
}

std::vector<std::shared_ptr<Container>> Vfio::containers() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<Container>> containers;
  for (const auto& [number, weak] : containers_) {
    if (auto container = weak.lock()) containers.push_back(std::move(container));
  }
  return containers;
}

std::shared_ptr<Group> Vfio::find_group(unsigned id) const {
  const std::scoped_lock lock(mutex_);
  const auto found = groups_.find(id);
  return found == groups_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Group>> Vfio::groups() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<Group>> groups;
  for (const auto& [id, group] : groups_) groups.push_back(group);
  return groups;
}

unsigned Vfio::allocate_group_id() {
  const std::scoped_lock lock(mutex_);
  return take_lowest(group_ids_, first_group_);
}

void Vfio::free_group_id(unsigned id) {
  const std::scoped_lock lock(mutex_);
  group_ids_.erase(id);
}

std::shared_ptr<Device> Vfio::register_emulated(std::string name, std::string sysfs_path,
                                                std::unique_ptr<DeviceOps> ops) {
  auto iommu_group =
      std::make_shared<iommu::IommuGroup>(allocate_group_id(), iommu::GroupType::emulated);
  return add_device(std::move(name), std::move(sysfs_path), std::move(iommu_group), std::move(ops));
}

std::shared_ptr<Device> Vfio::register_real(std::string name, std::string sysfs_path,
                                            std::shared_ptr<iommu::IommuGroup> iommu_group,
                                            std::unique_ptr<DeviceOps> ops) {
  return add_device(std::move(name), std::move(sysfs_path), std::move(iommu_group), std::move(ops));
}

std::shared_ptr<Device> Vfio::add_device(std::string name, std::string sysfs_path,
                                         std::shared_ptr<iommu::IommuGroup> iommu_group,
                                         std::unique_ptr<DeviceOps> ops) {
  std::shared_ptr<Group> group;
  std::shared_ptr<Device> device;
  bool new_group = false;
  {
    const std::scoped_lock lock(mutex_);
    auto& slot = groups_[iommu_group->id()];
    new_group = !slot;
    if (new_group) slot.reset(new Group(std::move(iommu_group)));
    group = slot;
    device.reset(new Device(std::move(name), take_lowest(device_indexes_, 0), std::move(sysfs_path),
                            group, std::move(ops)));
    const std::scoped_lock device_lock(group->device_lock_);
    group->devices_.push_back(device);
  }
  if (new_group && listener_ != nullptr) listener_->group_added(group);
  return device;
}

void Vfio::unregister(const std::shared_ptr<Device>& device) {
  Group& group = device->group();
  {
    const std::scoped_lock lock(group.device_lock_);
    std::erase(group.devices_, device);
  }
  {
    std::unique_lock lock(device->users_lock_);
    for (unsigned reminders = 0; device->users_ != 0; ++reminders) {
      lock.unlock();
      device->ops_->request(reminders);
      lock.lock();
      device->users_gone_.wait_for(lock, kRequestInterval, [&] { return device->users_ == 0; });
      if (device->users_ != 0) {
        spdlog::info("device {} is in use: waiting for its users to close it", device->name());
      }
    }
  }
  bool last = false;
  {
    const std::scoped_lock lock(mutex_);
    {
      const std::scoped_lock device_lock(group.device_lock_);
      last = group.devices_.empty();
    }
    if (last) groups_.erase(group.id());
    device_indexes_.erase(device->index());
  }
  if (last) {
    if (listener_ != nullptr) listener_->group_removed(device->group_);
    {
      const std::scoped_lock lock(group.lock_);
      group.detach_container_locked();
      group.unplugged_ = true;
    }
    if (group.type() == iommu::GroupType::emulated) free_group_id(group.id());
  }
  device->ops_.reset();
}

}  // namespace uvfio::vfio
