// What the directory of a PCI device in sysfs holds.
#pragma once

#include <memory>
#include <vector>

#include "nodes/tree.h"
#include "uvfio/attribute.h"
#include "uvfio/pci_bus.h"

namespace uvfio::nodes {

// Attributes that take as long as the users of the device like.
[[nodiscard]] std::vector<Attribute> slow_pci_attributes(
    const std::shared_ptr<pci::Device>& device);
[[nodiscard]] std::vector<Attribute> pci_attributes(const std::shared_ptr<pci::Device>& device);

// The file `config`: the hardware's configuration space. Others than the superuser see the first 64
// bytes in the kernel; here whoever may open it sees all.
[[nodiscard]] DeviceNode::Traits config_traits(const pci::Device& device);
[[nodiscard]] DeviceNode::Opener config_opener(const std::shared_ptr<pci::Device>& device);

}  // namespace uvfio::nodes
