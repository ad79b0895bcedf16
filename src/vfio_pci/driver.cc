#include "vfio_pci/driver.h"

#include <algorithm>
#include <utility>

#include "pci/function.h"
#include "vfio_pci/device.h"

namespace uvfio::vfio_pci {

// A device of the host while it is bound.
class Driver::Bound final : public Place {
 public:
  Bound(pci::Device& device, std::shared_ptr<Set> set) : device_(device), set_(std::move(set)) {
    const std::lock_guard lock(set_->mutex);
    set_->members.emplace(&device_, this);
  }
  ~Bound() override {
    const std::lock_guard lock(set_->mutex);
    set_->members.erase(&device_);
  }

  [[nodiscard]] const std::shared_ptr<Set>& set() const { return set_; }

  std::shared_ptr<vfio::Device> vfio_device;  // set by probe

  bool can_reset() override { return !device_.reset_methods().empty(); }
  Status reset() override { return device_.reset(); }

  Result<std::vector<vfio::PciDevice::Dependent>> hot_reset_set() override {
    std::vector<vfio::PciDevice::Dependent> set;
    for (const auto& other : device_.bus().reset_set(device_)) {
      const pci::Address& address = other->address();
      set.push_back({.group = other->iommu_group()->id(),
                     .segment = address.segment,
                     .bus = address.bus,
                     .devfn = static_cast<std::uint8_t>(address.device << 3 | address.function)});
    }
    if (set.empty()) return fail(ENODEV);
    return set;
  }

  Status hot_reset(std::span<const std::shared_ptr<vfio::GroupFile>> groups) override {
    const std::lock_guard lock(set_->mutex);
    const auto affected = device_.bus().reset_set(device_);
    if (!all_bound_locked(affected)) return fail(EINVAL);
    const bool owned = std::ranges::all_of(affected, [&](const auto& other) {
      return std::ranges::any_of(groups, [&](const auto& group) {
        return &group->group().iommu_group() == other->iommu_group().get();
      });
    });
    if (!owned) return fail(EINVAL);
    for (const auto& other : affected) other->function().hot_reset();
    return {};
  }

  void opened() override {
    device_.enable();
    const std::lock_guard lock(set_->mutex);
    open_ = true;
  }

  void closed(bool needs_reset) override {
    static_cast<void>(device_.disable());
    const std::lock_guard lock(set_->mutex);
    open_ = false;
    needs_reset_ = needs_reset;
    const auto& members = set_->members;
    if (std::ranges::any_of(members, [](const auto& each) { return each.second->open_; })) return;
    if (std::ranges::none_of(members, [](const auto& each) { return each.second->needs_reset_; })) {
      return;
    }
    const auto affected = device_.bus().reset_set(device_);
    if (!all_bound_locked(affected)) return;
    for (const auto& other : affected) other->function().hot_reset();
    for (const auto& [device, bound] : members) bound->needs_reset_ = false;
  }

 private:
  [[nodiscard]] bool all_bound_locked(std::span<const std::shared_ptr<pci::Device>> devices) const {
    return !devices.empty() && std::ranges::all_of(devices, [this](const auto& device) {
      return set_->members.contains(device.get());
    });
  }

  pci::Device& device_;
  const std::shared_ptr<Set> set_;
  // Guarded by the set's mutex.
  bool open_ = false;
  bool needs_reset_ = false;
};

Driver::Driver(vfio::Vfio& vfio) : vfio_(vfio) {}
Driver::~Driver() = default;

std::shared_ptr<Driver::Set> Driver::set_for_locked(const pci::Device& device) {
  for (const auto& other : device.bus().reset_set(device)) {
    const auto found = bound_.find(other.get());
    if (found != bound_.end() && found->second) return found->second->set();
  }
  return std::make_shared<Set>();
}

Status Driver::probe(pci::Device& device) {
  Bound* bound = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto& slot = bound_[&device];
    slot = std::make_unique<Bound>(device, set_for_locked(device));
    bound = slot.get();
  }
  // Without the lock: a client may open the device as soon as it is registered.
  auto registered = vfio_.register_real(device.name(), device.sysfs_path(), device.iommu_group(),
                                        std::make_unique<VfioPciDevice>(device.function(), *bound));
  const std::lock_guard lock(mutex_);
  bound->vfio_device = std::move(registered);
  return {};
}

void Driver::remove(pci::Device& device) {
  std::shared_ptr<vfio::Device> vfio_device;
  {
    const std::lock_guard lock(mutex_);
    vfio_device = bound_.at(&device)->vfio_device;
  }
  vfio_.unregister(vfio_device);
  const std::lock_guard lock(mutex_);
  bound_.erase(&device);
}

}  // namespace uvfio::vfio_pci
