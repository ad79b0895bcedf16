#include <fmt/format.h>

#include "pci/function.h"
#include "pci/layout.h"
#include "uvfio/memory.h"
#include "uvfio/pci_bus.h"

namespace uvfio::pci {

Device::Device(Bus& bus, const Address& address, std::shared_ptr<Function> function,
               const Resources& resources, std::shared_ptr<iommu::IommuGroup> group)
    : bus_(bus),
      address_(address),
      name_(address.to_string()),
      sysfs_path_(fmt::format("devices/pci{:04x}:{:02x}/{}", address.segment, address.bus, name_)),
      function_(std::move(function)),
      resources_(resources),
      group_(std::move(group)) {}

Device::~Device() = default;

Driver* Device::driver() const {
  const std::scoped_lock lock(mutex_);
  return driver_;
}

std::optional<std::string> Device::driver_override() const {
  const std::scoped_lock lock(mutex_);
  return driver_override_;
}

Status Device::set_driver_override(std::string_view text) {
  if (text.size() >= memory::kPageSize - 1) return fail(EINVAL);
  text = text.substr(0, text.find('\n'));
  text = text.substr(0, text.find('\0'));
  const std::scoped_lock lock(mutex_);
  if (text.empty()) {
    driver_override_.reset();
  } else {
    driver_override_ = text;
  }
  return {};
}

void Device::enable() {
  if (enable_count_++ != 0) return;
  constexpr auto kCommand = offset_of(ConfigRegister::command);
  std::uint32_t decode = 0;
  for (const Bar& bar : function_->description().bars) {
    if (bar.kind == Bar::Kind::none) continue;
    decode |= bar.kind == Bar::Kind::io ? kCommandIo : kCommandMemory;
  }
  function_->set_power_state(0);
  function_->config_set(kCommand, 2, function_->config_get(kCommand, 2) | decode);
}

// As pci_disable_device: decoding stays, only bus mastering ends.
Status Device::disable() {
  unsigned count = enable_count_;
  do {
    if (count == 0) return fail(EIO);
  } while (!enable_count_.compare_exchange_weak(count, count - 1));
  if (count != 1) return {};
  constexpr auto kCommand = offset_of(ConfigRegister::command);
  function_->config_set(kCommand, 2, function_->config_get(kCommand, 2) & ~kCommandMaster);
  return {};
}

Status Device::store_enable(bool on) {
  const std::scoped_lock lock(driver_lock_);
  if (driver() != nullptr) return fail(EBUSY);
  if (!on) return disable();
  enable();
  return {};
}

std::vector<std::string> Device::reset_methods() const {
  std::vector<std::string> methods;
  if (function_->has_flr()) methods.emplace_back("flr");
  if (function_->has_pm_reset()) methods.emplace_back("pm");
  if (bus_.reset_set(*this).size() == 1) methods.emplace_back("bus");
  return methods;
}

Status Device::reset() {
  if (auto done = function_->reset_function(); done || done.error() != Errno{ENOTTY}) return done;
  if (bus_.reset_set(*this).size() != 1) return fail(ENOTTY);
  function_->hot_reset();
  return {};
}

}  // namespace uvfio::pci
