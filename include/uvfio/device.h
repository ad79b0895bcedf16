// The interface that a device model implements: the kernel's vfio_device_ops, in C++.
//
// A model never learns who drives it (a node, a socket, a call in this process). Everything that is
// not mandatory is an optional part: return a pointer to it, or nullptr.
#pragma once

#include <linux/vfio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::vfio {

class Device;
class GroupFile;

// VFIO_DEVICE_GET_INFO, without what the door fills in (argsz, capability offsets).
struct DeviceInfo {
  std::uint32_t flags = 0;  // VFIO_DEVICE_FLAGS_*
  std::uint32_t num_regions = 0;
  std::uint32_t num_irqs = 0;
};

// One entry of a capability chain: header id and version, then the payload that follows the header.
struct Capability {
  std::uint16_t id = 0;
  std::uint16_t version = 0;
  std::vector<std::byte> payload;
};

// VFIO_DEVICE_GET_REGION_INFO. `offset` is the region's place in the device fd.
struct RegionInfo {
  std::uint32_t flags =
      0;  // VFIO_REGION_INFO_FLAG_*; MMAP only if DeviceOps::mmap_backing() has it
  std::uint64_t size = 0;
  std::uint64_t offset = 0;
  std::vector<Capability> capabilities;
};

// VFIO_DEVICE_GET_IRQ_INFO.
struct IrqInfo {
  std::uint32_t flags = 0;  // VFIO_IRQ_INFO_*
  std::uint32_t count = 0;
};

// Turns a descriptor number of the client into our own reference to the file.
class FdSource {
 public:
  virtual ~FdSource() = default;
  // EBADF when the client has no such descriptor.
  [[nodiscard]] virtual Result<Fd> get(int fd) = 0;
};

// VFIO_DEVICE_SET_IRQS after the validation that all devices share
// (vfio_set_irqs_validate_and_prepare): index, start and count are in range, exactly one data type
// is set, the payload is complete. The action bits are unchecked: no handler for them is ENOTTY,
// and that is the model's answer.
struct IrqSet {
  std::uint32_t flags = 0;  // VFIO_IRQ_SET_DATA_* | VFIO_IRQ_SET_ACTION_*
  std::uint32_t index = 0;
  std::uint32_t start = 0;
  std::uint32_t count = 0;
  std::span<const std::uint8_t> bools;  // `count` entries with DATA_BOOL
  std::span<const std::int32_t> fds;    // `count` entries with DATA_EVENTFD; -1: none
  FdSource* fd_source = nullptr;

  [[nodiscard]] std::uint32_t data() const { return flags & VFIO_IRQ_SET_DATA_TYPE_MASK; }
  [[nodiscard]] std::uint32_t action() const { return flags & VFIO_IRQ_SET_ACTION_TYPE_MASK; }
  // The eventfd of entry `i` (fds[i] >= 0). EBADF, EINVAL: as eventfd_ctx_fdget.
  [[nodiscard]] Result<EventFd> eventfd(std::size_t i) const;
  // Is the payload complete? The doors check this; another caller of a model may not.
  [[nodiscard]] bool complete() const;
  // Without eventfds: is interrupt `start + i` meant?
  [[nodiscard]] bool selects(std::size_t i) const {
    return data() == VFIO_IRQ_SET_DATA_NONE || bools[i] != 0;
  }
  // No interrupt at all: how a client turns an index off.
  [[nodiscard]] bool turns_off() const { return count == 0 && data() == VFIO_IRQ_SET_DATA_NONE; }
};

// Optional part of a device that pins client memory (vfio_device_ops.dma_unmap). Without it
// pin_pages is refused.
class DmaClient {
 public:
  virtual ~DmaClient() = default;
  // The mapping [iova, iova + size) is about to go: unpin everything in it before returning. Called
  // without the lock that mappings are changed under, so it may call unpin_pages; but with the one
  // on the list of the container's devices, so it must not open or close a device of that
  // container, nor wait for who does. May run beside any other call.
  virtual void dma_unmap(std::uint64_t iova, std::uint64_t size) = 0;
};

// Optional part: migration, protocol version 2 (vfio_migration_ops). States are
// VFIO_DEVICE_STATE_*. The core walks the arcs of the state machine; the model is asked only for
// single steps that its flags allow.
class Migration {
 public:
  virtual ~Migration() = default;
  [[nodiscard]] virtual std::uint32_t flags() const = 0;  // VFIO_MIGRATION_*
  [[nodiscard]] virtual std::uint32_t state() = 0;
  // Takes one arc to `next` and is in that state on return, unless it fails. A step into a saving
  // or resuming state returns the new end of the data stream; the caller installs it as the
  // client's data_fd. Called with walk_mutex() held.
  [[nodiscard]] virtual Result<std::shared_ptr<class MigrationStream>> step(std::uint32_t next) = 0;
  // Bytes that STOP_COPY would produce now (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE).
  [[nodiscard]] virtual Result<std::uint64_t> data_size() = 0;

  // Held for a whole walk from one state to another, so that two walks do not mix. A model's reset
  // takes it before any lock of its own.
  [[nodiscard]] std::mutex& walk_mutex() { return walk_mutex_; }

  // VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 was set since the first open. The core's business;
  // streams share it.
  [[nodiscard]] const std::shared_ptr<std::atomic<bool>>& precopy_info_v2() const {
    return precopy_info_v2_;
  }

 private:
  std::mutex walk_mutex_;
  std::shared_ptr<std::atomic<bool>> precopy_info_v2_ = std::make_shared<std::atomic<bool>>(false);
};

// One migration data stream: what the client's data_fd reads or writes. Thread-safe.
class MigrationStream {
 public:
  virtual ~MigrationStream() = default;
  // Bytes moved, 0 at the end; ENODEV once the device has left the state that opened the stream.
  // EINVAL when the stream has the other direction.
  [[nodiscard]] virtual Result<std::size_t> read(std::span<std::byte> data) = 0;
  [[nodiscard]] virtual Result<std::size_t> write(std::span<const std::byte> data) = 0;
  // VFIO_MIG_GET_PRECOPY_INFO. EINVAL outside PRE_COPY; ENOTTY if this stream has no such state.
  struct PrecopyInfo {
    std::uint64_t initial_bytes = 0;
    std::uint64_t dirty_bytes = 0;
  };
  [[nodiscard]] virtual Result<PrecopyInfo> precopy_info() { return fail(ENOTTY); }

  // Set by the core before the client gets the stream; see Migration::precopy_info_v2.
  std::shared_ptr<const std::atomic<bool>> precopy_info_v2;
};

// Optional part: the device logs its own DMA writes (vfio_log_ops).
class DmaLogging {
 public:
  struct Range {
    std::uint64_t iova = 0;
    std::uint64_t length = 0;
  };
  virtual ~DmaLogging() = default;
  // May change `page_size` to what the device can do.
  [[nodiscard]] virtual Status start(std::span<const Range> ranges, std::uint64_t& page_size) = 0;
  [[nodiscard]] virtual Status stop() = 0;
  // Calls `dirty(iova, length)` for what was written in [iova, iova + length) since the last
  // report, in whole pages; stops at the first error, which is its result.
  using Dirty = std::function<Status(std::uint64_t iova, std::uint64_t length)>;
  [[nodiscard]] virtual Status report(std::uint64_t iova, std::uint64_t length,
                                      std::uint64_t page_size, const Dirty& dirty) = 0;
};

// Optional part: what only PCI devices have (vfio_pci_core).
class PciDevice {
 public:
  // A function that a reset of the slot or bus affects.
  struct Dependent {
    std::optional<unsigned> group;  // its IOMMU group
    std::uint16_t segment = 0;
    std::uint8_t bus = 0;
    std::uint8_t devfn = 0;
  };
  // VFIO_DEVICE_IOEVENTFD: when `fd` of the client is signalled, write `data`.
  struct IoEventFd {
    std::uint64_t position = 0;  // in the device file
    std::uint64_t data = 0;
    unsigned width = 0;  // bytes: 1, 2, 4 or 8
    int fd = -1;         // -1: no longer
    FdSource* fd_source = nullptr;
  };

  virtual ~PciDevice() = default;
  // Whom a hot reset affects, this device among them. ENODEV: there is no such reset.
  [[nodiscard]] virtual Result<std::vector<Dependent>> hot_reset_set() = 0;
  // VFIO_DEVICE_PCI_HOT_RESET. EINVAL: some function of the set is not bound to vfio-pci, or in
  // none of `groups`.
  [[nodiscard]] virtual Status hot_reset(std::span<const std::shared_ptr<GroupFile>> groups) = 0;
  // VFIO_DEVICE_IOEVENTFD. EINVAL: the region, the range or the width. EEXIST: there is one for the
  // same write. ENODEV: there is none to remove. ENOSPC: 1,000 are there. EBADF, EINVAL: the
  // descriptor.
  [[nodiscard]] virtual Status set_ioeventfd(const IoEventFd& request) = 0;
  // VFIO_DEVICE_FEATURE_LOW_POWER_*: until the client's next request with `wake_up`, which that
  // request signals; else until told otherwise. EINVAL: entered already.
  [[nodiscard]] virtual Status enter_low_power(std::optional<EventFd> wake_up) = 0;
  virtual void exit_low_power() = 0;
  // A request of the client wakes the device. Called before each ioctl.
  virtual void resume() = 0;
};

// A device model. Calls may come from several threads at once; open_device and close_device never
// overlap with anything else.
class DeviceOps {
 public:
  virtual ~DeviceOps() = default;

  // Does `text`, which a client passed to VFIO_GROUP_GET_DEVICE_FD, mean this device, whose name is
  // `name`? An error ends the search.
  [[nodiscard]] virtual Result<bool> match(std::string_view name, std::string_view text) {
    return name == text;
  }

  // First open and last close of the device. `device` is valid until close_device returns; it is
  // the model's way to the client's memory (pin_pages, dma_rw, dma()).
  [[nodiscard]] virtual Status open_device(Device& device) {
    static_cast<void>(device);
    return {};
  }
  virtual void close_device() {}

  [[nodiscard]] virtual DeviceInfo info() = 0;
  [[nodiscard]] virtual Result<RegionInfo> region_info(std::uint32_t index) = 0;
  [[nodiscard]] virtual Result<IrqInfo> irq_info(std::uint32_t index) = 0;
  // How many interrupts SET_IRQS may name at `index`: what start and count are compared with.
  // EINVAL: no such index.
  [[nodiscard]] virtual Result<std::uint32_t> irq_limit(std::uint32_t index) {
    const Result<IrqInfo> irq = irq_info(index);
    if (!irq) return std::unexpected(irq.error());
    return irq->count;
  }
  // 0, an errno, or a positive count of vectors that could be had.
  [[nodiscard]] virtual Result<int> set_irqs(const IrqSet& set) = 0;
  [[nodiscard]] virtual Status reset() { return fail(EINVAL); }

  // Access at `position` of the device fd. Returns the bytes done, which may be fewer.
  [[nodiscard]] virtual Result<std::size_t> read(std::uint64_t position,
                                                 std::span<std::byte> data) = 0;
  [[nodiscard]] virtual Result<std::size_t> write(std::uint64_t position,
                                                  std::span<const std::byte> data) = 0;

  // A sparse memfd laid out as the device fd: what clients map of the regions that carry
  // VFIO_REGION_INFO_FLAG_MMAP. nullptr: nothing can be mapped. The same as long as
  // somebody has the device open, and a new one for whoever opens it next, who then shares nothing
  // with those who have it mapped still.
  [[nodiscard]] virtual const Fd* mmap_backing() { return nullptr; }

  // Somebody waits for the device to be closed (hot unplug); `count` counts the reminders.
  virtual void request(unsigned count) { static_cast<void>(count); }

  [[nodiscard]] virtual DmaClient* dma_client() { return nullptr; }
  [[nodiscard]] virtual Migration* migration() { return nullptr; }
  [[nodiscard]] virtual DmaLogging* dma_logging() { return nullptr; }
  [[nodiscard]] virtual PciDevice* pci() { return nullptr; }
};

}  // namespace uvfio::vfio
