// The interrupts of an emulated vfio-pci device that is its own driver (the kernel's mtty): what
// SET_IRQS sets up, and the eventfds that tell the client. INTx and MSI; a device uses one of them
// at a time. Not vfio_pci::Interrupts, which stands over hardware and answers as vfio-pci does.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "uvfio/device.h"

namespace uvfio::pci {

// Thread-safe, and takes no other lock.
class Interrupts {
 public:
  // A device with an interrupt pin and `msi_vectors` (0 or more) messages.
  explicit Interrupts(std::uint32_t msi_vectors) : msi_(msi_vectors) {}

  // VFIO_DEVICE_SET_IRQS. Differs from vfio-pci in what the kernel's emulated devices do without:
  // INTx without an eventfd is off, there are no eventfds that mask or unmask, and a client's
  // trigger is masked like the device's own. ENOTTY: no handler for this index and action.
  [[nodiscard]] Result<int> set_irqs(const vfio::IrqSet& set);

  // An event in the device: a message on `vector`, or a pulse on the pin. An INTx signal masks the
  // pin until the client unmasks it; a pulse on a masked pin is lost.
  void raise(std::uint32_t vector = 0);

  // The level of the pin, for devices that hold it until served. As long as it is asserted, every
  // unmask signals again.
  void set_level(bool asserted);

  // Back to no interrupts, as at the close of a device. The level stays.
  void disable();

 private:
  enum class Mode { none, intx, msi };

  Result<int> set_intx(const vfio::IrqSet& set);
  Result<int> set_intx_mask(const vfio::IrqSet& set, bool masked);
  Result<int> set_msi(const vfio::IrqSet& set);
  Result<int> set_msi_eventfds(const vfio::IrqSet& set);
  void disable_locked();
  void raise_intx();
  void raise_msi(std::uint32_t vector);

  std::mutex mutex_;
  Mode mode_ = Mode::none;
  std::optional<EventFd> intx_;  // set exactly in mode intx
  bool intx_masked_ = false;
  bool intx_level_ = false;
  std::vector<std::optional<EventFd>> msi_;  // mode msi: at least one is set; else none
};

}  // namespace uvfio::pci
