// VFIO over PCI models: the kernel's vfio-pci.
#pragma once

#include <memory>

#include "uvfio/device.h"
#include "uvfio/error.h"
#include "uvfio/pci.h"
#include "uvfio/pci_bus.h"

namespace uvfio::vfio {
class Vfio;
}

namespace uvfio::vfio_pci {

// A mediated device (vfio_mpci): what an mdev driver's probe returns. EINVAL: the model's description contradicts
// itself. ENOMEM and the like: no memory for what clients map.
[[nodiscard]] Result<std::unique_ptr<vfio::DeviceOps>> make_mediated(
    std::unique_ptr<pci::Model> model);

// The driver "vfio-pci" of the host's PCI bus: gives functions to the users of `vfio`, which outlives it. It takes
// only functions that it is told to take (driver_override, new_id).
[[nodiscard]] std::unique_ptr<pci::Driver> make_driver(vfio::Vfio& vfio);

}  // namespace uvfio::vfio_pci
