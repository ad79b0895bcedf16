// A PCI function in a client's hands: the kernel's vfio_pci_core_device. The same class serves
// functions of the host's bus (vfio-pci) and mediated devices (vfio_mpci).
#pragma once

#include <memory>

#include "pci/function.h"
#include "uvfio/device.h"
#include "vfio_pci/hardware_config.h"
#include "vfio_pci/interrupts.h"
#include "vfio_pci/ioeventfds.h"
#include "vfio_pci/place.h"
#include "vfio_pci/power.h"
#include "vfio_pci/regions.h"
#include "vfio_pci/virtual_config.h"

namespace uvfio::vfio_pci {

// Thread-safe, as DeviceOps asks for.
class VfioPciDevice final : public vfio::DeviceOps, private vfio::PciDevice, private ConfigEffects {
 public:
  // A direct function, which somebody else owns, at its place. Both outlive this.
  VfioPciDevice(pci::Function& function, Place& place)
      : VfioPciDevice(nullptr, &function, &place) {}
  // A mediated device: a function of its own.
  explicit VfioPciDevice(std::unique_ptr<pci::Function> function)
      : VfioPciDevice(std::move(function), nullptr, nullptr) {}

  [[nodiscard]] Result<bool> match(std::string_view name, std::string_view text) override;
  [[nodiscard]] Status open_device(vfio::Device& device) override;
  void close_device() override;

  [[nodiscard]] vfio::DeviceInfo info() override;
  [[nodiscard]] Result<vfio::RegionInfo> region_info(std::uint32_t index) override;
  [[nodiscard]] Result<vfio::IrqInfo> irq_info(std::uint32_t index) override;
  [[nodiscard]] Result<int> set_irqs(const vfio::IrqSet& set) override;
  [[nodiscard]] Status reset() override;

  [[nodiscard]] Result<std::size_t> read(std::uint64_t position,
                                         std::span<std::byte> data) override;
  [[nodiscard]] Result<std::size_t> write(std::uint64_t position,
                                          std::span<const std::byte> data) override;
  [[nodiscard]] const Fd* mmap_backing() override { return function_.mmap_backing(); }

  void request(unsigned count) override;
  [[nodiscard]] vfio::PciDevice* pci() override { return this; }

 private:
  // The function's own configuration space.
  class Hardware final : public HardwareConfig {
   public:
    explicit Hardware(pci::Function& function) : function_(function) {}
    [[nodiscard]] std::size_t size() const override { return function_.config_size(); }
    [[nodiscard]] std::uint32_t read(std::uint16_t offset, unsigned width) override;
    void write(std::uint16_t offset, unsigned width, std::uint32_t value) override;

   private:
    pci::Function& function_;
  };

  // One of the functions is missing.
  VfioPciDevice(std::unique_ptr<pci::Function> own, pci::Function* direct, Place* place);

  // vfio::PciDevice.
  Result<std::vector<Dependent>> hot_reset_set() override;
  Status hot_reset(std::span<const std::shared_ptr<vfio::GroupFile>> groups) override;
  Status set_ioeventfd(const IoEventFd& request) override { return ioeventfds_.set(request); }
  Status enter_low_power(std::optional<EventFd> wake_up) override;
  void exit_low_power() override { power_.exit_low_power(); }
  void resume() override { power_.resume(); }

  // ConfigEffects.
  void set_power_state(unsigned state) override;
  void reset_function() override { static_cast<void>(do_reset()); }
  void set_intx_disabled(bool disabled) override { interrupts_.set_intx_disabled(disabled); }
  unsigned msi_vectors() override { return interrupts_.msi_vectors(); }

  [[nodiscard]] bool can_reset() const;
  Status do_reset();
  void enable_function();
  void make_config();
  [[nodiscard]] std::uint32_t irq_count(std::uint32_t index) const;

  const std::unique_ptr<pci::Function> own_;
  pci::Function& function_;
  Place* const place_;
  Hardware hardware_{function_};
  Regions regions_{function_};
  Interrupts interrupts_{function_};
  IoEventFds ioeventfds_{function_, regions_};
  Power power_{function_};

  // Of the current open; changed by open_device and close_device only.
  bool reset_works_ = false;
  std::optional<SavedState> host_state_;
  std::unique_ptr<VirtualConfig> config_;  // never nullptr
};

}  // namespace uvfio::vfio_pci
