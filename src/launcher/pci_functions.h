// The PCI functions of a topology on a host: models, IOMMU units, and the drivers that the host
// has.
#pragma once

#include <memory>
#include <vector>

#include "launcher/failure.h"
#include "launcher/topology.h"
#include "uvfio/host.h"

namespace uvfio::launcher {

// Exists as long as the functions do. The host outlives it.
class PciFunctions {
 public:
  // Plugs in the topology's functions, in order, and binds each to its driver.
  [[nodiscard]] static Outcome<std::unique_ptr<PciFunctions>> create(Host& host,
                                                                     const Topology& topology);
  ~PciFunctions();
  PciFunctions(const PciFunctions&) = delete;

  // In the order of the topology.
  [[nodiscard]] const std::vector<std::shared_ptr<pci::Device>>& devices() const {
    return devices_;
  }

 private:
  explicit PciFunctions(Host& host) : host_(host) {}
  Outcome<void> add_units(const Topology& topology);
  void add_drivers(const Topology& topology);
  Outcome<void> add(const PciRequest& request, const pci::Address& address);

  Host& host_;
  std::vector<std::shared_ptr<iommu::Unit>> units_;
  std::vector<std::unique_ptr<pci::Driver>> drivers_;
  std::vector<std::shared_ptr<pci::Device>> devices_;
};

}  // namespace uvfio::launcher
