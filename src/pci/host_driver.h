// A driver of the host, as far as VFIO can tell: it binds, uses the device's DMA, and so keeps the
// device's IOMMU group from user space.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "uvfio/pci_bus.h"

namespace uvfio::pci {

class HostDriver final : public Driver {
 public:
  // Without ids it takes only devices that it is told to take.
  explicit HostDriver(std::string name, std::vector<Id> ids = {})
      : name_(std::move(name)), ids_(std::move(ids)) {}
  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::vector<Id> ids() const override { return ids_; }
  [[nodiscard]] Status probe(Device& device) override {
    device.enable();
    return {};
  }
  void remove(Device& device) override { static_cast<void>(device.disable()); }

 private:
  const std::string name_;
  const std::vector<Id> ids_;
};

// A driver that does nothing with its devices, and leaves their DMA to others (pci-stub).
class StubDriver final : public Driver {
 public:
  [[nodiscard]] std::string name() const override { return "pci-stub"; }
  [[nodiscard]] bool driver_managed_dma() const override { return true; }
  [[nodiscard]] Status probe(Device&) override { return {}; }
  void remove(Device&) override {}
};

}  // namespace uvfio::pci
