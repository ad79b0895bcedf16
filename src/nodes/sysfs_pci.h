// The sysfs trees of the PCI bus and of the IOMMU groups of its devices.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "nodes/sysfs_builder.h"
#include "uvfio/host.h"

namespace uvfio::nodes {

// Fills a directory that stands for /sys. Told of changes by whoever listens to the bus; telling it
// of a thing twice does no harm. Thread-safe.
class SysfsPci {
 public:
  SysfsPci(Host& host, std::shared_ptr<Directory> sys);

  void driver_registered(pci::Driver& driver);
  void driver_unregistered(pci::Driver& driver);
  void device_added(const std::shared_ptr<pci::Device>& device);
  void device_removed(const std::shared_ptr<pci::Device>& device);
  void driver_bound(pci::Device& device, pci::Driver& driver);
  void driver_unbinding(pci::Device& device);

 private:
  struct DeviceNodes {
    Nodes device;  // from added to removed
    Nodes driver;  // while one is bound
  };
  struct GroupNodes {
    Nodes nodes;
    unsigned devices = 0;
  };

  void make_bus();
  void make_modules();
  void add_group_locked(const pci::Device& device, Nodes& nodes);

  Host& host_;
  const std::shared_ptr<Directory> sys_;

  // Never held while nodes are removed.
  std::mutex mutex_;
  std::map<const pci::Driver*, Nodes> drivers_;
  std::map<const pci::Device*, DeviceNodes> devices_;
  std::map<const iommu::IommuGroup*, GroupNodes> groups_;
};

}  // namespace uvfio::nodes
