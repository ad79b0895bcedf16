// The driver vfio-pci: puts functions of the host's bus into the hands of VFIO's clients.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "uvfio/pci_bus.h"
#include "uvfio/vfio.h"

namespace uvfio::vfio_pci {

// Takes what it is told to take (driver_override, new_id). Thread-safe.
class Driver final : public pci::Driver {
 public:
  explicit Driver(vfio::Vfio& vfio) : vfio_(vfio) {}
  ~Driver() override;

  [[nodiscard]] std::string name() const override { return "vfio-pci"; }
  [[nodiscard]] bool driver_managed_dma() const override { return true; }
  [[nodiscard]] Status probe(pci::Device& device) override;
  void remove(pci::Device& device) override;

 private:
  class DevicePlace;
  struct Bound {
    std::unique_ptr<DevicePlace> place;
    std::shared_ptr<vfio::Device> device;
  };

  // Those of a reset set that are bound to this driver; empty: some are not.
  [[nodiscard]] std::vector<DevicePlace*> places_locked(const pci::Device& device) const;

  vfio::Vfio& vfio_;
  std::mutex mutex_;  // guards the rest, and the state of places; held over hot resets
  std::map<const pci::Device*, Bound> bound_;
};

}  // namespace uvfio::vfio_pci
