// VFIO over PCI models, for mdev drivers. Direct functions get it from the host's driver vfio-pci.
#pragma once

#include <memory>

#include "uvfio/device.h"
#include "uvfio/error.h"
#include "uvfio/pci.h"

namespace uvfio::vfio_pci {

// A mediated device (vfio_mpci): what an mdev driver's probe returns. EINVAL: the model's
// description contradicts itself. ENOMEM and the like: no memory for what clients map.
[[nodiscard]] Result<std::unique_ptr<vfio::DeviceOps>> make_mediated(
    std::unique_ptr<pci::Model> model);

}  // namespace uvfio::vfio_pci
