#include <algorithm>

#include "base/number.h"
#include "uvfio/mdev.h"
#include "uvfio/vfio.h"

namespace uvfio::mdev {

bool Driver::match(const Device& device) const { return &device.parent().driver() == this; }

Parent::Parent(ParentInfo info, Driver& driver)
    : info_(std::move(info)), driver_(&driver), instances_left_(driver.max_instances()) {}

std::string Parent::type_id(const Type& type) const {
  return info_.driver_name + "-" + type.sysfs_name;
}

unsigned Parent::available_instances(const Type& type) const {
  return driver_->get_available(*this, type).value_or(instances_left_.load());
}

Device::Device(Bus& bus, std::shared_ptr<Parent> parent, const Type& type, const Uuid& uuid)
    : bus_(bus), parent_(std::move(parent)), type_(&type), uuid_(uuid), name_(uuid.to_string()) {}

Device::~Device() {
  if (counted_) ++parent_->instances_left_;
}

Bus::~Bus() {
  for (const auto& parent : parents()) unregister_parent(parent);
}

Status Bus::register_driver(Driver& driver) {
  if (driver.device_api().empty()) return fail(EINVAL);
  {
    const std::scoped_lock lock(list_mutex_);
    const std::string name = driver.name();
    if (std::ranges::any_of(drivers_, [&](const Driver* other) { return other->name() == name; })) {
      return fail(EEXIST);
    }
    drivers_.push_back(&driver);
  }
  if (listener_ != nullptr) listener_->driver_registered(driver);
  return {};
}

void Bus::unregister_driver(Driver& driver) {
  {
    const std::scoped_lock lock(list_mutex_);
    std::erase(drivers_, &driver);
  }
  for (const auto& device : devices()) {
    if (device->driver_ == &driver) static_cast<void>(remove(device));
  }
  if (listener_ != nullptr) listener_->driver_unregistered(driver);
}

Result<std::shared_ptr<Parent>> Bus::register_parent(ParentInfo info, Driver& driver) {
  if (info.name.empty() || info.types.empty()) return fail(EINVAL);
  std::shared_ptr<Parent> parent(new Parent(std::move(info), driver));
  {
    const std::scoped_lock lock(list_mutex_);
    if (std::ranges::find(drivers_, &driver) == drivers_.end()) return fail(EINVAL);
    if (!parents_.emplace(parent->info().name, parent).second) return fail(EEXIST);
  }
  if (listener_ != nullptr) listener_->parent_registered(parent);
  return parent;
}

void Bus::unregister_parent(const std::shared_ptr<Parent>& parent) {
  {
    const std::scoped_lock lock(list_mutex_);
    if (parents_.erase(parent->info().name) == 0) return;
  }
  std::vector<std::shared_ptr<Device>> children;
  {
    // Waits for creates and removes that are under way; later ones fail.
    const std::unique_lock unregister(parent->unreg_sem_);
    parent->unregistering_ = true;
    const std::scoped_lock lock(list_mutex_);
    for (const auto& [uuid, device] : devices_) {
      // Also one whose remover was too late for the lock, and has given up.
      if (device->parent_ != parent) continue;
      device->active_ = false;
      children.push_back(device);
    }
  }
  for (const auto& device : children) unbind(device);
  if (listener_ != nullptr) listener_->parent_unregistered(parent);
}

Result<std::shared_ptr<Device>> Bus::create(const std::shared_ptr<Parent>& parent, const Type& type,
                                            const Uuid& uuid) {
  std::shared_ptr<Device> device(new Device(*this, parent, type, uuid));
  {
    const std::scoped_lock lock(list_mutex_);
    if (devices_.contains(uuid)) return fail(EEXIST);
    if (!parent->driver().get_available(*parent, type)) {
      if (parent->instances_left_ == 0) return fail(EUSERS);
      --parent->instances_left_;
      device->counted_ = true;
    }
    devices_.emplace(uuid, device);
  }
  const auto forget = [&](Errno error) {
    const std::scoped_lock lock(list_mutex_);
    devices_.erase(uuid);
    return std::unexpected(error);
  };
  const std::shared_lock not_unregistering(parent->unreg_sem_, std::try_to_lock);
  if (!not_unregistering || parent->unregistering_) return forget(Errno{ENODEV});
  if (auto bound = bind(device); !bound) return forget(bound.error());
  if (listener_ != nullptr) listener_->device_added(device);
  const std::scoped_lock lock(list_mutex_);
  device->active_ = true;
  return device;
}

// Finds the driver and lets it make the model (mdev_probe).
Status Bus::bind(const std::shared_ptr<Device>& device) {
  Driver* driver = nullptr;
  {
    const std::scoped_lock lock(list_mutex_);
    const auto found = std::ranges::find_if(
        drivers_, [&](const Driver* candidate) { return candidate->match(*device); });
    if (found == drivers_.end()) return fail(ENODEV);
    driver = *found;
  }
  auto ops = driver->probe(*device);
  if (!ops) return std::unexpected(ops.error());
  device->driver_ = driver;
  device->vfio_device_ = vfio_.register_emulated(
      device->name(), device->parent().info().sysfs_path + "/" + device->name(), std::move(*ops));
  return {};
}

// Takes an inactive device off the bus (mdev_device_remove_common). Blocks until its users are
// gone.
void Bus::unbind(const std::shared_ptr<Device>& device) {
  if (listener_ != nullptr) listener_->device_removing(device);
  vfio_.unregister(device->vfio_device_);
  device->driver_->remove(*device);
  if (listener_ != nullptr) listener_->device_removed(device);
  const std::scoped_lock lock(list_mutex_);
  devices_.erase(device->uuid());
}

Status Bus::remove(const std::shared_ptr<Device>& device) {
  {
    const std::scoped_lock lock(list_mutex_);
    const auto found = devices_.find(device->uuid());
    if (found == devices_.end() || found->second != device) return fail(ENODEV);
    if (!device->active_) return fail(EAGAIN);
    device->active_ = false;
  }
  const std::shared_lock not_unregistering(device->parent().unreg_sem_, std::try_to_lock);
  if (!not_unregistering || device->parent().unregistering_) return fail(ENODEV);
  unbind(device);
  return {};
}

Status Bus::store_create(const std::shared_ptr<Parent>& parent, const Type& type,
                         std::string_view text) {
  constexpr std::size_t kUuidLength = 36;
  if (text.size() != kUuidLength && text.size() != kUuidLength + 1) return fail(EINVAL);
  const auto uuid = Uuid::parse(text.substr(0, kUuidLength));
  if (!uuid) return std::unexpected(uuid.error());
  if (auto created = create(parent, type, *uuid); !created) return std::unexpected(created.error());
  return {};
}

Status Bus::store_remove(const std::shared_ptr<Device>& device, std::string_view text) {
  const auto number = parse_unsigned(text);
  if (!number) return fail(EINVAL);  // ERANGE, too
  return *number == 0 ? Status() : remove(device);
}

std::vector<std::shared_ptr<Parent>> Bus::parents() const {
  const std::scoped_lock lock(list_mutex_);
  std::vector<std::shared_ptr<Parent>> all;
  for (const auto& [name, parent] : parents_) all.push_back(parent);
  return all;
}

std::vector<std::shared_ptr<Device>> Bus::devices() const {
  const std::scoped_lock lock(list_mutex_);
  std::vector<std::shared_ptr<Device>> all;
  for (const auto& [uuid, device] : devices_) {
    if (device->active_) all.push_back(device);
  }
  return all;
}

std::shared_ptr<Device> Bus::find(const Uuid& uuid) const {
  const std::scoped_lock lock(list_mutex_);
  const auto found = devices_.find(uuid);
  return found == devices_.end() ? nullptr : found->second;
}

}  // namespace uvfio::mdev
