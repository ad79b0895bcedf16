// The driver "vfio-pci" of the host's PCI bus, and the sets of devices that are reset together.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "uvfio/pci_bus.h"
#include "uvfio/vfio.h"
#include "vfio_pci/place.h"

namespace uvfio::vfio_pci {

// Thread-safe.
class Driver final : public pci::Driver {
 public:
  explicit Driver(vfio::Vfio& vfio);
  ~Driver() override;

  [[nodiscard]] std::string name() const override { return "vfio-pci"; }
  [[nodiscard]] bool driver_managed_dma() const override { return true; }
  [[nodiscard]] Status probe(pci::Device& device) override;
  // Waits for the device's users.
  void remove(pci::Device& device) override;

 private:
  class Bound;
  // The devices of one bus or slot that are bound to this driver (vfio_device_set).
  struct Set {
    std::mutex mutex;  // held over resets; taken before the functions' locks
    std::map<const pci::Device*, Bound*> members;
  };
  // Of the devices that are reset with `device`.
  std::shared_ptr<Set> set_for_locked(const pci::Device& device);

  vfio::Vfio& vfio_;
  std::mutex mutex_;  // guards bound_; taken before a set's
  std::map<const pci::Device*, std::unique_ptr<Bound>> bound_;
};

}  // namespace uvfio::vfio_pci
