// The interrupts of a vfio-pci device (vfio_pci_intrs.c): what SET_IRQS sets up between the
// hardware and the client's eventfds.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "pci/function.h"
#include "uvfio/device.h"
#include "vfio/virqfd.h"

namespace uvfio::vfio_pci {

// Not pci::Interrupts: that is the simpler protocol of the kernel's emulated devices, which answer
// some requests differently. Thread-safe. Locks: igate_, the function's, mutex_.
class Interrupts final : private pci::InterruptSink {
 public:
  // `function` outlives this.
  explicit Interrupts(pci::Function& function);
  ~Interrupts() override;

  // The first open: interrupts of the function come here. The last close: all off, all eventfds
  // gone.
  void open();
  void close();

  // VFIO_DEVICE_SET_IRQS. ENOTTY: no handler for this index and action.
  [[nodiscard]] Result<int> set_irqs(const vfio::IrqSet& set);
  // The client's DisINTx bit: masks the pin, and is heeded again by later set-ups.
  void set_intx_disabled(bool disabled);
  // Vectors that MSI has been set up with; 0: it is not.
  [[nodiscard]] unsigned msi_vectors() const;
  // The hardware has lost what was set up (D3hot): does it again.
  void restore();
  // The device shall be given back (hot unplug). False: the client has set no eventfd for that.
  bool request() const;

 private:
  // An index of SET_IRQS that delivers the device's interrupts; one at a time.
  enum class Type { none, intx, msi, msix };

  void message(unsigned vector) override;
  void intx(bool asserted) override;

  Result<int> trigger_intx(const vfio::IrqSet& set);
  Result<int> mask_intx(const vfio::IrqSet& set);
  Result<int> unmask_intx(const vfio::IrqSet& set);
  void unmask();
  void unmask_locked();
  void raise_intx_locked();
  void signal_intx_locked();

  Result<int> trigger_messages(Type type, const vfio::IrqSet& set);
  Result<int> enable_messages(Type type, const vfio::IrqSet& set);
  Result<int> change_messages(const vfio::IrqSet& set);
  void program_hardware(Type type, unsigned count);
  void set_vector(unsigned vector, std::optional<EventFd> event);
  void disable_intx();
  void disable_messages();

  Result<int> trigger_single(std::optional<EventFd>& event, const vfio::IrqSet& set);

  pci::Function& function_;

  std::mutex igate_;        // one change at a time; guards what follows
  unsigned allocated_ = 0;  // MSI, MSI-X: vectors that the hardware was programmed for
  vfio::Virqfd unmask_;

  mutable std::mutex mutex_;  // guards the rest; taken for every interrupt
  Type type_ = Type::none;
  std::optional<EventFd> intx_;  // may be missing while the type is intx
  bool intx_masked_ = false;
  bool intx_disabled_ = false;
  std::vector<std::optional<EventFd>> vectors_;
  std::optional<EventFd> error_;
  std::optional<EventFd> request_;
};

}  // namespace uvfio::vfio_pci
