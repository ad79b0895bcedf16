// What an IOMMU backend offers to VFIO (vfio_iommu_driver_ops). A backend is a Driver, of which the
// host has one, and an Iommu for each container that chose it. type1 is one; each has its own
// folder.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "uvfio/device.h"
#include "uvfio/dma.h"
#include "uvfio/error.h"
#include "uvfio/iommu_group.h"

namespace uvfio::iommu {

class Users;
using vfio::Prot;

// How a device's DMA reaches the client's memory, without a lock. Emulated devices share one per
// container; a device behind an IOMMU unit has its own for each engine. Thread-safe; the IOTLB
// before it (vfio::Dma) is not.
class DmaPath {
 public:
  virtual ~DmaPath() = default;

  // What it takes to write: vfio_dma_rw wants READ as well.
  [[nodiscard]] virtual Prot prot_of_write() const = 0;

  // What holds at `iova`, for an access of `size` bytes with `prot` (marks pages dirty where that
  // is tracked). Called inside an RCU read-side section; the answer holds until the section ends,
  // and beyond it for accesses within its `prot` as long as generation() has not changed. EINVAL:
  // nothing holds all of it. EPERM. EOPNOTSUPP: all of it is mapped, but not to one piece of
  // memory. EAGAIN: call resolve() outside of the section and try again.
  [[nodiscard]] virtual Result<vfio::Translation> translate(std::uint64_t iova, std::uint64_t size,
                                                            Prot prot) = 0;
  // As translate, for memory that is used beyond the section: an unmap waits until the caller has
  // left `users`, which this enters. EOPNOTSUPP: reached by copy only.
  [[nodiscard]] virtual Result<std::byte*> hold(std::uint64_t iova, std::uint64_t size, Prot prot,
                                                Users*& users) = 0;
  [[nodiscard]] virtual Status resolve(std::uint64_t iova) = 0;
  // A translation or hold that failed with `error` was all that the device wanted: for the fault
  // records.
  virtual void report_refused(std::uint64_t iova, std::uint64_t size, Prot prot, Errno error) {
    static_cast<void>(iova), static_cast<void>(size), static_cast<void>(prot),
        static_cast<void>(error);
  }

  // Copies, whatever kind of memory it is, across mappings. Outside of any section.
  [[nodiscard]] virtual Status read(std::uint64_t iova, std::span<std::byte> data) = 0;
  [[nodiscard]] virtual Status write(std::uint64_t iova, std::span<const std::byte> data) = 0;

  // Changes whenever a translation that was handed out stops to hold.
  [[nodiscard]] virtual const std::atomic<std::uint64_t>& generation() const = 0;
};

// A container's IOMMU. Thread-safe. Its ioctls differ from backend to backend and are no part of
// this interface: uapi/ knows them by the concrete class.
class Iommu {
 public:
  virtual ~Iommu() = default;

  // VFIO_CHECK_EXTENSION on a container that has this IOMMU.
  [[nodiscard]] virtual int check_extension(std::uint64_t extension) = 0;

  // `group` outlives its attachment.
  [[nodiscard]] virtual Status attach_group(IommuGroup& group) = 0;
  virtual void detach_group(IommuGroup& group) = 0;

  // Devices that want to know of unmaps, between their first open and their last close.
  virtual void register_device(vfio::DmaClient& client) { static_cast<void>(client); }
  virtual void unregister_device(vfio::DmaClient& client) { static_cast<void>(client); }

  // Appends to `pins` what is needed to reach `pages` pages from `iova`; the pin is the caller's
  // until unpin_pages. On failure nothing is pinned.
  [[nodiscard]] virtual Status pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot,
                                         vfio::PinnedPages& pins) {
    static_cast<void>(iova), static_cast<void>(pages), static_cast<void>(prot),
        static_cast<void>(pins);
    return fail(ENOTTY);
  }
  virtual void unpin_pages(std::uint64_t iova, std::uint64_t pages) {
    static_cast<void>(iova), static_cast<void>(pages);
  }

  // Copies between the device and the client, across mappings.
  [[nodiscard]] virtual Status dma_read(std::uint64_t iova, std::span<std::byte> data) {
    static_cast<void>(iova), static_cast<void>(data);
    return fail(ENOTTY);
  }
  [[nodiscard]] virtual Status dma_write(std::uint64_t iova, std::span<const std::byte> data) {
    static_cast<void>(iova), static_cast<void>(data);
    return fail(ENOTTY);
  }

  // The way of a device's DMA through this IOMMU. `self` is this object's own reference, `group` is
  // attached, `device` names the device in fault records.
  [[nodiscard]] virtual Result<std::shared_ptr<DmaPath>> dma_path(
      const std::shared_ptr<Iommu>& self, IommuGroup& group, std::string device) {
    static_cast<void>(self), static_cast<void>(group), static_cast<void>(device);
    return fail(ENOTTY);
  }
};

// Fills in a PinnedPages.
struct PinBuilder {
  static void append(vfio::PinnedPages& pins, const vfio::PinnedSegment& segment,
                     std::shared_ptr<const void> view, std::shared_ptr<memory::AddressSpace> space);
};

// A backend (the registered vfio_iommu_driver). Thread-safe.
class Driver {
 public:
  virtual ~Driver() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // VFIO_CHECK_EXTENSION on a container without IOMMU.
  [[nodiscard]] virtual int check_extension(std::uint64_t extension) const = 0;
  // `container`: a number to know it by.
  [[nodiscard]] virtual Result<std::shared_ptr<Iommu>> open(std::uint64_t type,
                                                            unsigned container) = 0;
};

}  // namespace uvfio::iommu
