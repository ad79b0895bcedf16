// For tests: the client's side of SET_IRQS, and an eventfd of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "uvfio/device.h"

namespace uvfio::pci {

inline constexpr std::uint32_t kNone = VFIO_IRQ_SET_DATA_NONE;
inline constexpr std::uint32_t kBool = VFIO_IRQ_SET_DATA_BOOL;
inline constexpr std::uint32_t kEventfd = VFIO_IRQ_SET_DATA_EVENTFD;
inline constexpr std::uint32_t kMask = VFIO_IRQ_SET_ACTION_MASK;
inline constexpr std::uint32_t kUnmask = VFIO_IRQ_SET_ACTION_UNMASK;
inline constexpr std::uint32_t kTrigger = VFIO_IRQ_SET_ACTION_TRIGGER;
inline constexpr std::uint32_t kIntx = VFIO_PCI_INTX_IRQ_INDEX;
inline constexpr std::uint32_t kMsi = VFIO_PCI_MSI_IRQ_INDEX;

// Descriptors of this process.
class OwnDescriptors : public vfio::FdSource {
 public:
  Result<Fd> get(int fd) override {
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return fail(errno);
    return Fd(copy);
  }
};

class Counter {
 public:
  Counter() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  [[nodiscard]] int get() const { return fd_.get(); }
  // Signals since the last call.
  [[nodiscard]] unsigned take() const {
    eventfd_t count = 0;
    return eventfd_read(fd_.get(), &count) == 0 ? static_cast<unsigned>(count) : 0;
  }

 private:
  Fd fd_;
};

// One SET_IRQS call as the doors make it. `target` has set_irqs().
template <typename Target>
class IrqClient {
 public:
  explicit IrqClient(Target& target) : target_(target) {}

  // 0 (or a positive result), or minus the errno.
  int set(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
          std::vector<std::int32_t> fds = {}, std::vector<std::uint8_t> bools = {}) {
    const Result<int> result = target_.set_irqs({.flags = flags,
                                                 .index = index,
                                                 .start = start,
                                                 .count = count,
                                                 .bools = bools,
                                                 .fds = fds,
                                                 .fd_source = &descriptors_});
    return result ? *result : -value(result.error());
  }
  int enable(std::uint32_t index, const Counter& counter) {
    return set(kEventfd | kTrigger, index, 0, 1, {counter.get()});
  }
  int disable(std::uint32_t index) { return set(kNone | kTrigger, index, 0, 0); }
  int trigger(std::uint32_t index) { return set(kNone | kTrigger, index, 0, 1); }
  int unmask() { return set(kNone | kUnmask, kIntx, 0, 1); }

 private:
  Target& target_;
  OwnDescriptors descriptors_;
};

}  // namespace uvfio::pci
