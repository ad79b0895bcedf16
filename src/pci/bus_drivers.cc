// Drivers and the devices they bind to: the part of struct bus_type that sysfs controls.
#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "pci/function.h"
#include "uvfio/pci_bus.h"

namespace uvfio::pci {
namespace {

std::string_view without_newline(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

bool either(std::uint32_t wanted, std::uint32_t value) {
  return wanted == Id::kAny || wanted == value;
}

// Does `id` serve what calls itself `other`?
bool serves(const Id& id, const Id& other) {
  return either(id.vendor, other.vendor) && either(id.device, other.device) &&
         either(id.subvendor, other.subvendor) && either(id.subdevice, other.subdevice) &&
         ((id.class_code ^ other.class_code) & id.class_mask) == 0;
}

Id id_of(const Description& function) {
  return {.vendor = function.vendor_id,
          .device = function.device_id,
          .subvendor = function.subsystem_vendor_id,
          .subdevice = function.subsystem_id,
          .class_code = function.class_code};
}

// The numbers that a driver's new_id and remove_id take; how many there were. Those not given keep
// their value.
int scan(std::string_view text, Id& id) {
  return std::sscanf(std::string(text).c_str(), "%x %x %x %x %x %x %lx", &id.vendor, &id.device,
                     &id.subvendor, &id.subdevice, &id.class_code, &id.class_mask, &id.driver_data);
}

constexpr int kAllFields = 7;

}  // namespace

bool Id::matches(const Description& function) const { return serves(*this, id_of(function)); }

Status Bus::register_driver(Driver& driver) {
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& each : drivers_) {
      if (each.driver->name() == driver.name()) return fail(EEXIST);
    }
    drivers_.push_back({.driver = &driver, .dynamic_ids = {}});
  }
  if (listener_ != nullptr) listener_->pci_driver_registered(driver);
  if (autoprobe_) attach_all(driver);
  return {};
}

void Bus::unregister_driver(Driver& driver) {
  {
    const std::scoped_lock lock(mutex_);
    std::erase_if(drivers_, [&](const auto& each) { return each.driver == &driver; });
  }
  for (const auto& device : devices()) {
    const std::scoped_lock lock(device->driver_lock_);
    if (device->driver() == &driver) detach(*device);
  }
  if (listener_ != nullptr) listener_->pci_driver_unregistered(driver);
}

std::vector<Driver*> Bus::drivers() const {
  const std::scoped_lock lock(mutex_);
  std::vector<Driver*> all;
  for (const auto& each : drivers_) all.push_back(each.driver);
  return all;
}

Driver* Bus::find_driver(std::string_view name) const {
  for (Driver* driver : drivers()) {
    if (driver->name() == name) return driver;
  }
  return nullptr;
}

// pci_match_device.
bool Bus::matches(const Driver& driver, const Device& device) const {
  const auto forced = device.driver_override();
  if (forced) return *forced == driver.name();
  const Description& function = device.function().description();
  const auto fits = [&](const Id& id) { return id.matches(function); };
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& each : drivers_) {
      if (each.driver == &driver && std::ranges::any_of(each.dynamic_ids, fits)) return true;
    }
  }
  return std::ranges::any_of(driver.ids(), fits);
}

// pci_dma_configure: the host uses the device's DMA from here on.
Status Bus::take_dma(const Driver& driver, Device& device) {
  return driver.driver_managed_dma() ? Status() : device.iommu_group()->bind_host_driver();
}

Status Bus::probe(Driver& driver, Device& device) {
  if (auto probed = driver.probe(device); !probed) {
    if (!driver.driver_managed_dma()) device.iommu_group()->unbind_host_driver();
    spdlog::info("{}: probe by {} failed: {}", device.name(), driver.name(), value(probed.error()));
    return probed;
  }
  {
    const std::scoped_lock lock(device.mutex_);
    device.driver_ = &driver;
  }
  if (listener_ != nullptr) listener_->pci_driver_bound(device, driver);
  return {};
}

// device_attach: the first driver that takes it. That a probe fails is no error, but the next's
// turn.
Status Bus::attach(Device& device) {
  if (device.removed_ || device.driver() != nullptr) return {};
  for (Driver* driver : drivers()) {
    if (!matches(*driver, device)) continue;
    if (auto taken = take_dma(*driver, device); !taken) return taken;
    if (probe(*driver, device)) return {};
  }
  return {};
}

void Bus::detach(Device& device) {
  Driver* const driver = device.driver();
  if (driver == nullptr) return;
  if (listener_ != nullptr) listener_->pci_driver_unbinding(device, *driver);
  driver->remove(device);
  {
    const std::scoped_lock lock(device.mutex_);
    device.driver_ = nullptr;
  }
  if (!driver->driver_managed_dma()) device.iommu_group()->unbind_host_driver();
}

void Bus::attach_all(Driver& driver) {
  for (const auto& device : devices()) {
    const std::scoped_lock lock(device->driver_lock_);
    if (device->removed_ || device->driver() != nullptr || !matches(driver, *device)) continue;
    if (take_dma(driver, *device)) static_cast<void>(probe(driver, *device));
  }
}

Status Bus::bind(Driver& driver, std::string_view name) {
  const auto device = find(without_newline(name));
  if (!device || !matches(driver, *device)) return fail(ENODEV);
  const std::scoped_lock lock(device->driver_lock_);
  if (device->removed_) return fail(ENODEV);
  if (device->driver() != nullptr) return fail(EBUSY);
  if (auto taken = take_dma(driver, *device); !taken) return taken;
  return probe(driver, *device);
}

Status Bus::unbind(Driver& driver, std::string_view name) {
  const auto device = find(without_newline(name));
  if (!device || device->driver() != &driver) return fail(ENODEV);
  const std::scoped_lock lock(device->driver_lock_);
  if (device->driver() == &driver) detach(*device);
  return {};
}

Status Bus::new_id(Driver& driver, std::string_view text) {
  Id id{.vendor = 0, .device = 0};
  const int fields = scan(text, id);
  if (fields < 2) return fail(EINVAL);
  const auto known = driver.ids();
  const auto there = [&](const Id& each) { return serves(each, id); };
  if (fields != kAllFields && std::ranges::any_of(known, there)) return fail(EEXIST);
  if (!known.empty() && std::ranges::find(known, id.driver_data, &Id::driver_data) == known.end()) {
    return fail(EINVAL);
  }
  {
    const std::scoped_lock lock(mutex_);
    const auto registered = std::ranges::find(drivers_, &driver, &Registered::driver);
    if (registered == drivers_.end()) return fail(ENODEV);
    auto& ids = registered->dynamic_ids;
    if (fields != kAllFields && std::ranges::any_of(ids, there)) return fail(EEXIST);
    ids.push_back(id);
  }
  attach_all(driver);
  return {};
}

Status Bus::remove_id(Driver& driver, std::string_view text) {
  Id id{.vendor = 0, .device = 0};
  if (scan(text, id) < 2) return fail(EINVAL);
  const std::scoped_lock lock(mutex_);
  const auto registered = std::ranges::find(drivers_, &driver, &Registered::driver);
  if (registered == drivers_.end()) return fail(ENODEV);
  auto& ids = registered->dynamic_ids;
  const auto found = std::ranges::find_if(ids, [&](const Id& each) {
    return each.vendor == id.vendor && each.device == id.device &&
           either(id.subvendor, each.subvendor) && either(id.subdevice, each.subdevice) &&
           ((each.class_code ^ id.class_code) & id.class_mask) == 0;
  });
  if (found == ids.end()) return fail(ENODEV);
  ids.erase(found);
  return {};
}

Status Bus::drivers_probe(std::string_view name) {
  const auto device = find(without_newline(name));
  if (!device) return fail(ENODEV);
  const std::scoped_lock lock(device->driver_lock_);
  return attach(*device) ? Status() : fail(EINVAL);
}

}  // namespace uvfio::pci
