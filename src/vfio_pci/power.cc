#include "vfio_pci/power.h"

#include <linux/pci_regs.h>

#include <array>
#include <ranges>

namespace uvfio::vfio_pci {
namespace {

constexpr unsigned kD0 = 0;
constexpr unsigned kD3hot = 3;

}  // namespace

SavedState::SavedState(pci::Function& function) {
  const auto save = [&](std::uint16_t offset, std::uint8_t width) {
    registers_.push_back(
        {.offset = offset, .width = width, .value = function.config_get(offset, width)});
  };
  save(PCI_COMMAND, 2);  // restored last: addresses before decoding
  for (std::uint16_t offset = PCI_CACHE_LINE_SIZE; offset < PCI_STD_HEADER_SIZEOF; offset += 4) {
    save(offset, 4);
  }
  if (const std::uint16_t pcie = function.config_map().pcie; pcie != 0) {
    for (const unsigned reg : {PCI_EXP_DEVCTL, PCI_EXP_LNKCTL, PCI_EXP_DEVCTL2}) {
      save(static_cast<std::uint16_t>(pcie + reg), 2);
    }
  }
}

void SavedState::restore(pci::Function& function) const {
  for (const Register& reg : registers_ | std::views::reverse) {
    function.config_set(reg.offset, reg.width, reg.value);
  }
}

bool Power::set_state(unsigned state) {
  const std::lock_guard lock(mutex_);
  const unsigned now = function_.power_state();
  if (state == now || (state != kD0 && state < now)) return false;
  std::optional<SavedState> before;
  if (state == kD3hot) before.emplace(function_);
  function_.set_power_state(state);
  if (function_.power_state() != state) return false;
  if (state == kD3hot) {
    saved_ = std::move(before);
    return false;
  }
  if (now != kD3hot || !saved_) return false;
  saved_->restore(function_);
  saved_.reset();
  return true;
}

Status Power::enter_low_power(std::optional<EventFd> wake_up) {
  const std::lock_guard lock(mutex_);
  if (low_power_) return fail(EINVAL);
  low_power_ = true;
  function_.deny_mappings(true);
  sleeps_until_request_ = wake_up.has_value();
  wake_up_ = std::move(wake_up);
  return {};
}

void Power::exit_low_power() {
  const std::lock_guard lock(mutex_);
  leave_low_power_locked();
}

void Power::wake_up() {
  const std::lock_guard lock(mutex_);
  if (!wake_up_) return;
  wake_up_->signal();
  leave_low_power_locked();
}

void Power::leave_low_power_locked() {
  low_power_ = false;
  sleeps_until_request_ = false;
  wake_up_.reset();
  function_.deny_mappings(false);
}

}  // namespace uvfio::vfio_pci
