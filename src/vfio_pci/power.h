// The power states of a function under vfio-pci: what a client's writes to PMCSR do
// (vfio_pm_config_write), and the LOW_POWER features (vfio_pci_core_pm_entry).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "pci/function.h"
#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::vfio_pci {

// The registers of a function that a driver saves and restores (pci_save_state), without MSI and
// MSI-X.
class SavedState {
 public:
  explicit SavedState(pci::Function& function);
  void restore(pci::Function& function) const;

 private:
  struct Register {
    std::uint16_t offset = 0;
    std::uint8_t width = 0;
    std::uint32_t value = 0;
  };
  std::vector<Register> registers_;
};

// Thread-safe.
class Power {
 public:
  // `function` outlives this.
  explicit Power(pci::Function& function) : function_(function) {}

  // To D0 or D3hot; states that the function does not have, and steps up to anything but D0, change
  // nothing. True: the function was reset on its way to D0. Its state is restored, but for MSI and
  // MSI-X.
  bool set_state(unsigned state);

  // EINVAL: entered already.
  [[nodiscard]] Status enter_low_power(std::optional<EventFd> wake_up);
  void exit_low_power();
  [[nodiscard]] bool low() const { return low_power_.load(std::memory_order_relaxed); }
  // A request of the client.
  void resume() {
    if (sleeps_until_request_.load(std::memory_order_relaxed)) wake_up();
  }

 private:
  void wake_up();
  void leave_low_power_locked();

  pci::Function& function_;
  std::mutex mutex_;                 // guards the rest
  std::optional<SavedState> saved_;  // in D3hot
  std::atomic<bool> low_power_{false};
  std::optional<EventFd> wake_up_;
  std::atomic<bool> sleeps_until_request_{false};  // low_power_ with a wake_up_
};

}  // namespace uvfio::vfio_pci
