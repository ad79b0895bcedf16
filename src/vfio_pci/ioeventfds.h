// Register writes that an eventfd triggers (VFIO_DEVICE_IOEVENTFD; the kernel's
// vfio_pci_ioeventfd).
#pragma once

#include <list>
#include <mutex>

#include "pci/function.h"
#include "uvfio/device.h"
#include "vfio/virqfd.h"
#include "vfio_pci/regions.h"

namespace uvfio::vfio_pci {

// Thread-safe.
class IoEventFds {
 public:
  // Both outlive this.
  IoEventFds(pci::Function& function, const Regions& regions)
      : function_(function), regions_(regions) {}

  // vfio::PciDevice::set_ioeventfd.
  [[nodiscard]] Status set(const vfio::PciDevice::IoEventFd& request);
  // The last close: none is left, and no write is under way.
  void clear();

 private:
  struct Entry {
    unsigned bar = 0;
    std::uint64_t offset = 0;
    std::uint64_t data = 0;
    unsigned width = 0;
    vfio::Virqfd virqfd;
  };
  void write(const Entry& entry);

  pci::Function& function_;
  const Regions& regions_;
  // Its own: a model may wait for its client's memory.
  vfio::EventPoller poller_;
  std::mutex mutex_;  // guards entries_, which handlers do not need
  std::list<Entry> entries_;
};

}  // namespace uvfio::vfio_pci
