#include "vfio_pci/device.h"

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "base/log.h"
#include "pci/layout.h"
#include "uvfio/vfio_pci.h"
#include "vfio_pci/device_name.h"

namespace uvfio::vfio_pci {
namespace {

BarResources resources_of(const pci::Function& function) {
  BarResources resources;
  const auto& bars = function.description().bars;
  for (unsigned i = 0; i < bars.size(); ++i) {
    resources[i].size = function.bar_size(i);
    if (resources[i].size == 0) continue;
    switch (bars[i].kind) {
      case pci::Bar::Kind::none:
        break;
      case pci::Bar::Kind::io:
        resources[i].flags = PCI_BASE_ADDRESS_SPACE_IO;
        break;
      case pci::Bar::Kind::memory32:
        resources[i].flags = PCI_BASE_ADDRESS_SPACE_MEMORY;
        break;
      case pci::Bar::Kind::memory64:
        resources[i].flags = PCI_BASE_ADDRESS_MEM_TYPE_64;
        break;
    }
    if (bars[i].prefetchable) resources[i].flags |= PCI_BASE_ADDRESS_MEM_PREFETCH;
  }
  resources[6].size = function.rom_size();
  return resources;
}

}  // namespace

std::uint32_t VfioPciDevice::Hardware::read(std::uint16_t offset, unsigned width) {
  if (offset + width > size()) return ~std::uint32_t{0} >> (32 - 8 * width);
  return function_.config_get(offset, static_cast<std::uint8_t>(width));
}

void VfioPciDevice::Hardware::write(std::uint16_t offset, unsigned width, std::uint32_t value) {
  if (offset + width > size()) return;
  function_.config_set(offset, static_cast<std::uint8_t>(width), value);
}

VfioPciDevice::VfioPciDevice(std::unique_ptr<pci::Function> own, pci::Function* direct,
                             Place* place)
    : own_(std::move(own)), function_(own_ ? *own_ : *direct), place_(place) {
  make_config();
}

void VfioPciDevice::make_config() {
  ConfigEffects& effects = *this;
  config_ = std::make_unique<VirtualConfig>(hardware_, effects, resources_of(function_));
}

Result<bool> VfioPciDevice::match(std::string_view name, std::string_view text) {
  if (place_ == nullptr) return name == text;  // options are vfio-pci's
  return matches_device(name, text);
}

// Decoding is enabled for what the function has; bus mastering is the client's
// (vfio_pci_core_enable).
void VfioPciDevice::enable_function() {
  std::uint32_t decode = 0;
  for (unsigned i = 0; i < 6; ++i) {
    if (function_.bar_size(i) == 0) continue;
    decode |= function_.description().bars[i].kind == pci::Bar::Kind::io ? PCI_COMMAND_IO
                                                                         : PCI_COMMAND_MEMORY;
  }
  const std::uint32_t command = function_.config_get(PCI_COMMAND, 2);
  function_.config_set(PCI_COMMAND, 2, (command & ~std::uint32_t{PCI_COMMAND_MASTER}) | decode);
}

Status VfioPciDevice::open_device(vfio::Device& device) {
  if (auto attached = function_.attach(device); !attached) return attached;
  enable_function();
  if (can_reset()) {
    const Status reset = do_reset();
    if (!reset && reset.error() == Errno{EAGAIN}) {
      function_.detach();
      return reset;
    }
    reset_works_ = reset.has_value();
  }
  host_state_.emplace(function_);
  const std::uint32_t command = function_.config_get(PCI_COMMAND, 2);
  function_.config_set(PCI_COMMAND, 2, command & ~std::uint32_t{PCI_COMMAND_INTX_DISABLE});
  make_config();
  interrupts_.open();
  if (place_ != nullptr) place_->opened();
  return {};
}

void VfioPciDevice::close_device() {
  power_.exit_low_power();
  power_.set_state(0);
  const std::uint32_t command = function_.config_get(PCI_COMMAND, 2);
  function_.config_set(PCI_COMMAND, 2, command & ~std::uint32_t{PCI_COMMAND_MASTER});
  interrupts_.close();
  ioeventfds_.clear();
  host_state_->restore(function_);
  host_state_.reset();
  const bool clean = reset_works_ && do_reset();
  reset_works_ = false;
  function_.detach();
  if (place_ != nullptr) place_->closed(!clean);
}

vfio::DeviceInfo VfioPciDevice::info() {
  std::uint32_t flags = VFIO_DEVICE_FLAGS_PCI;
  if (reset_works_) flags |= VFIO_DEVICE_FLAGS_RESET;
  return {.flags = flags, .num_regions = VFIO_PCI_NUM_REGIONS, .num_irqs = VFIO_PCI_NUM_IRQS};
}

Result<vfio::RegionInfo> VfioPciDevice::region_info(std::uint32_t index) {
  if (index != VFIO_PCI_CONFIG_REGION_INDEX) return regions_.info(index);
  return vfio::RegionInfo{.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                          .size = function_.config_size(),
                          .offset = pci::region_offset(index),
                          .capabilities = {}};
}

std::uint32_t VfioPciDevice::irq_count(std::uint32_t index) const {
  switch (index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return config_->interrupt_pin() != 0 ? 1 : 0;
    case VFIO_PCI_MSI_IRQ_INDEX:
      return function_.vectors(pci::InterruptMode::msi);
    case VFIO_PCI_MSIX_IRQ_INDEX:
      return function_.vectors(pci::InterruptMode::msix);
    default:  // ERR, REQ
      return 1;
  }
}

Result<vfio::IrqInfo> VfioPciDevice::irq_info(std::uint32_t index) {
  if (index >= VFIO_PCI_NUM_IRQS) return fail(EINVAL);
  std::uint32_t flags = VFIO_IRQ_INFO_EVENTFD;
  if (index == VFIO_PCI_INTX_IRQ_INDEX) {
    flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
  } else if (index != VFIO_PCI_MSIX_IRQ_INDEX || irq_count(index) == 0) {
    // MSI-X vectors are allocated as they are wanted, where there are any.
    flags |= VFIO_IRQ_INFO_NORESIZE;
  }
  return vfio::IrqInfo{.flags = flags, .count = irq_count(index)};
}

Result<int> VfioPciDevice::set_irqs(const vfio::IrqSet& set) { return interrupts_.set_irqs(set); }

bool VfioPciDevice::can_reset() const {
  if (place_ != nullptr) return place_->can_reset();
  return function_.has_flr() || function_.has_pm_reset();
}

Status VfioPciDevice::do_reset() {
  return place_ != nullptr ? place_->reset() : function_.reset_function();
}

Status VfioPciDevice::reset() {
  if (!reset_works_) return fail(EINVAL);
  set_power_state(0);
  return do_reset();
}

void VfioPciDevice::set_power_state(unsigned state) {
  if (power_.set_state(state)) interrupts_.restore();
}

Result<std::size_t> VfioPciDevice::read(std::uint64_t position, std::span<std::byte> data) {
  if (data.empty()) return 0;
  const auto [index, offset] = pci::split_position(position);
  if (index >= VFIO_PCI_NUM_REGIONS) return fail(EINVAL);
  power_.resume();
  if (index != VFIO_PCI_CONFIG_REGION_INDEX) return regions_.read(index, offset, data);
  if (auto done = config_->read(offset, data); !done) return std::unexpected(done.error());
  return data.size();
}

Result<std::size_t> VfioPciDevice::write(std::uint64_t position, std::span<const std::byte> data) {
  if (data.empty()) return 0;
  const auto [index, offset] = pci::split_position(position);
  if (index >= VFIO_PCI_NUM_REGIONS) return fail(EINVAL);
  power_.resume();
  if (index != VFIO_PCI_CONFIG_REGION_INDEX) return regions_.write(index, offset, data);
  if (auto done = config_->write(offset, data); !done) return std::unexpected(done.error());
  if (power_.low()) set_power_state(0);  // as it is suspended again
  return data.size();
}

// A function is suspended in D0 (vfio_pci_core_runtime_suspend), whatever its client has set.
Status VfioPciDevice::enter_low_power(std::optional<EventFd> wake_up) {
  auto entered = power_.enter_low_power(std::move(wake_up));
  if (entered) set_power_state(0);
  return entered;
}

void VfioPciDevice::request(unsigned count) {
  if (!interrupts_.request() && count == 0) {
    spdlog::warn("vfio-pci: a device is to go, but its user has set no eventfd for that");
  }
}

Result<std::vector<vfio::PciDevice::Dependent>> VfioPciDevice::hot_reset_set() {
  if (place_ == nullptr) return fail(ENODEV);
  return place_->hot_reset_set();
}

Status VfioPciDevice::hot_reset(std::span<const std::shared_ptr<vfio::GroupFile>> groups) {
  if (place_ == nullptr) return fail(ENODEV);
  return place_->hot_reset(groups);
}

Result<std::unique_ptr<vfio::DeviceOps>> make_mediated(std::unique_ptr<pci::Model> model) {
  auto function = pci::Function::create(std::move(model));
  if (!function) return std::unexpected(function.error());
  return std::make_unique<VfioPciDevice>(std::move(*function));
}

}  // namespace uvfio::vfio_pci
