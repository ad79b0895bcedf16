#include "vfio_pci/driver.h"

#include <algorithm>

#include "pci/function.h"
#include "vfio_pci/device.h"
#include "vfio_pci/place.h"

namespace uvfio::vfio_pci {

// A function on the bus, and what is known of it for resets of its set (struct vfio_device_set).
class Driver::DevicePlace final : public Place {
 public:
  DevicePlace(Driver& driver, pci::Device& device) : driver_(driver), device_(device) {}

  bool can_reset() override { return !device_.reset_methods().empty(); }
  Status reset() override { return device_.reset(); }

  Result<std::vector<vfio::PciDevice::Dependent>> hot_reset_set() override {
    std::vector<vfio::PciDevice::Dependent> set;
    for (const auto& each : device_.bus().reset_set(device_)) {
      const pci::Address& at = each->address();
      set.push_back({.group = each->iommu_group()->id(),
                     .segment = at.segment,
                     .bus = at.bus,
                     .devfn = static_cast<std::uint8_t>(at.device << 3 | at.function)});
    }
    return set;
  }

  Status hot_reset(std::span<const std::shared_ptr<vfio::GroupFile>> groups) override {
    const std::scoped_lock lock(driver_.mutex_);
    const auto places = driver_.places_locked(device_);
    const auto covered = [&](const DevicePlace* place) {
      return std::ranges::any_of(groups, [&](const auto& file) {
        return &file->group().iommu_group() == place->device_.iommu_group().get();
      });
    };
    if (places.empty() || !std::ranges::all_of(places, covered)) return fail(EINVAL);
    reset_all(places);
    return {};
  }

  void opened() override {
    const std::scoped_lock lock(driver_.mutex_);
    open_ = true;
  }

  void closed(bool needs_reset) override {
    const std::scoped_lock lock(driver_.mutex_);
    open_ = false;
    needs_reset_ = needs_reset;
    const auto places = driver_.places_locked(device_);
    if (std::ranges::none_of(places, &DevicePlace::open_) &&
        std::ranges::any_of(places, &DevicePlace::needs_reset_)) {
      reset_all(places);
    }
  }

 private:
  static void reset_all(const std::vector<DevicePlace*>& places) {
    for (DevicePlace* place : places) {
      place->device_.function().hot_reset();
      place->needs_reset_ = false;
    }
  }

  Driver& driver_;
  pci::Device& device_;
  bool open_ = false;
  bool needs_reset_ = false;
};

Driver::~Driver() = default;

std::vector<Driver::DevicePlace*> Driver::places_locked(const pci::Device& device) const {
  std::vector<DevicePlace*> places;
  for (const auto& each : device.bus().reset_set(device)) {
    const auto found = bound_.find(each.get());
    if (found == bound_.end()) return {};
    places.push_back(found->second.place.get());
  }
  return places;
}

Status Driver::probe(pci::Device& device) {
  auto place = std::make_unique<DevicePlace>(*this, device);
  auto ops = std::make_unique<VfioPciDevice>(device.function(), *place);
  {
    // First: a client may open the device as soon as it is registered.
    const std::scoped_lock lock(mutex_);
    bound_[&device].place = std::move(place);
  }
  auto registered = vfio_.register_real(device.name(), device.sysfs_path(), device.iommu_group(),
                                        std::move(ops));
  const std::scoped_lock lock(mutex_);
  bound_[&device].device = std::move(registered);
  return {};
}

void Driver::remove(pci::Device& device) {
  std::shared_ptr<vfio::Device> registered;
  {
    const std::scoped_lock lock(mutex_);
    registered = bound_[&device].device;
  }
  vfio_.unregister(registered);  // waits; the model is gone on return
  const std::scoped_lock lock(mutex_);
  bound_.erase(&device);
}

}  // namespace uvfio::vfio_pci
