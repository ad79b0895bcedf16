// Where a direct function sits on its host: what is reset together with it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "uvfio/device.h"
#include "uvfio/error.h"

namespace uvfio::vfio_pci {

// A mediated device has none. Thread-safe.
class Place {
 public:
  virtual ~Place() = default;

  // pci_reset_function: the function alone, or its bus if it is alone there. The configuration is
  // kept.
  [[nodiscard]] virtual bool can_reset() = 0;
  [[nodiscard]] virtual Status reset() = 0;

  // As in vfio::PciDevice.
  [[nodiscard]] virtual Result<std::vector<vfio::PciDevice::Dependent>> hot_reset_set() = 0;
  [[nodiscard]] virtual Status hot_reset(
      std::span<const std::shared_ptr<vfio::GroupFile>> groups) = 0;

  // The first open and the last close. After a close that could not reset the function, the whole
  // set is reset once no device of it is open any more.
  virtual void opened() = 0;
  virtual void closed(bool needs_reset) = 0;
};

}  // namespace uvfio::vfio_pci
