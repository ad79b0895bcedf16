// How a client names a vfio-pci device in VFIO_GROUP_GET_DEVICE_FD (vfio_pci_core_match).
#pragma once

#include <string_view>

#include "uvfio/error.h"

namespace uvfio::vfio_pci {

// True: `text` is `name`, maybe followed by blanks. False: another device. EINVAL: `name` with
// options that are malformed or unknown, or with a VF token, which a function without SR-IOV does
// not have.
[[nodiscard]] Result<bool> matches_device(std::string_view name, std::string_view text);

}  // namespace uvfio::vfio_pci
