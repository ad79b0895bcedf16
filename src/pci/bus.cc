#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "pci/function.h"
#include "pci/resources.h"
#include "uvfio/pci_bus.h"
#include "uvfio/vfio.h"

namespace uvfio::pci {

Bus::Bus(vfio::Vfio& vfio) : vfio_(vfio) {}

Bus::~Bus() {
  for (const auto& device : devices()) static_cast<void>(remove(device));
}

// The group that a place belongs to: there already, or made.
Result<std::shared_ptr<iommu::IommuGroup>> Bus::group_locked(const Place& place) {
  std::string key = place.group;
  if (key.empty()) {
    key = fmt::format("{:04x}:{:02x}:{:02x}", place.address.segment, place.address.bus,
                      place.address.device);
  }
  auto& slot = groups_[key];
  if (auto group = slot.lock()) {
    if (group->unit() != place.unit) return fail(EINVAL);
    return group;
  }
  std::shared_ptr<iommu::IommuGroup> group(
      new iommu::IommuGroup(vfio_.allocate_group_id(), iommu::GroupType::real, place.unit,
                            place.reserved),
      [&vfio = vfio_](iommu::IommuGroup* gone) {
        vfio.free_group_id(gone->id());
        delete gone;
      });
  slot = group;
  return group;
}

Result<std::shared_ptr<Device>> Bus::add_device_locked(const Hardware& hardware) {
  auto group = group_locked(hardware.place);
  if (!group) return std::unexpected(group.error());
  std::shared_ptr<Device> device(new Device(*this, hardware.place.address, hardware.function,
                                            hardware.resources, std::move(*group)));
  devices_.emplace(hardware.place.address, device);
  return device;
}

// Tells of a new device and looks for its driver.
void Bus::announce(const std::shared_ptr<Device>& device) {
  if (listener_ != nullptr) listener_->pci_device_added(device);
  if (!autoprobe_) return;
  const std::scoped_lock lock(device->driver_lock_);
  static_cast<void>(attach(*device));
}

Result<std::shared_ptr<Device>> Bus::plug(const Place& place, std::unique_ptr<Model> model) {
  auto function = Function::create(std::move(model));
  if (!function) return std::unexpected(function.error());
  std::shared_ptr<Device> device;
  {
    const std::scoped_lock lock(mutex_);
    if (hardware_.contains(place.address)) return fail(EEXIST);
    auto& space = spaces_[place.address.segment];
    if (!space) space = std::make_unique<AddressSpace>();
    const auto resources = space->allocate((*function)->description(), (*function)->rom_size());
    if (!resources) return std::unexpected(resources.error());
    Hardware hardware{.place = place, .function = std::move(*function), .resources = *resources};
    assign(*hardware.function, hardware.resources);
    auto added = add_device_locked(hardware);
    if (!added) {
      space->free(*resources);
      return added;
    }
    device = std::move(*added);
    hardware_.emplace(place.address, std::move(hardware));
  }
  announce(device);
  return device;
}

Status Bus::unplug(const Address& address) {
  Hardware gone;
  {
    // First out of the list, so that no rescan finds it again.
    const std::scoped_lock lock(mutex_);
    const auto found = hardware_.find(address);
    if (found == hardware_.end()) return fail(ENODEV);
    gone = std::move(found->second);
    hardware_.erase(found);
  }
  if (const auto device = find(address)) static_cast<void>(remove(device));
  const std::scoped_lock lock(mutex_);
  spaces_[address.segment]->free(gone.resources);
  return {};
}

std::shared_ptr<Device> Bus::find(const Address& address) const {
  const std::scoped_lock lock(mutex_);
  const auto found = devices_.find(address);
  return found == devices_.end() ? nullptr : found->second;
}

std::shared_ptr<Device> Bus::find(std::string_view name) const {
  const auto address = Address::parse(name);
  const auto device = address ? find(*address) : nullptr;
  return device && device->name() == name ? device : nullptr;
}

std::vector<std::shared_ptr<Device>> Bus::devices() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<Device>> all;
  for (const auto& [address, device] : devices_) all.push_back(device);
  return all;
}

Status Bus::remove(const std::shared_ptr<Device>& device) {
  {
    const std::scoped_lock lock(device->driver_lock_);
    if (device->removed_) return fail(ENODEV);
    device->removed_ = true;
    detach(*device);
  }
  {
    const std::scoped_lock lock(mutex_);
    devices_.erase(device->address());
  }
  if (listener_ != nullptr) listener_->pci_device_removed(device);
  return {};
}

void Bus::rescan() {
  std::vector<std::shared_ptr<Device>> found;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [address, hardware] : hardware_) {
      if (devices_.contains(address)) continue;
      if (auto added = add_device_locked(hardware)) {
        found.push_back(std::move(*added));
      } else {
        spdlog::error("{}: its IOMMU group is behind another unit now", address.to_string());
      }
    }
  }
  for (const auto& device : found) announce(device);
}

std::vector<std::shared_ptr<Device>> Bus::reset_set(const Device& device) const {
  const Address& at = device.address();
  std::vector<std::shared_ptr<Device>> set;
  for (auto& other : devices()) {
    const Address& place = other->address();
    const bool together =
        at.bus == 0 ? place.same_slot(at) : place.segment == at.segment && place.bus == at.bus;
    if (together) set.push_back(std::move(other));
  }
  return set;
}

std::vector<std::shared_ptr<iommu::IommuGroup>> Bus::groups() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::shared_ptr<iommu::IommuGroup>> all;
  for (const auto& [key, group] : groups_) {
    if (auto alive = group.lock()) all.push_back(std::move(alive));
  }
  return all;
}

}  // namespace uvfio::pci
