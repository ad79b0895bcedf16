#include <linux/vfio.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "uapi/handlers.h"
#include "uapi/ioctl.h"
#include "uapi/user_struct.h"
#include "uvfio/vfio_compat.h"
#include "vfio/migration.h"

namespace uvfio::uapi {
namespace {

// One VFIO_DEVICE_FEATURE call: its header, and where its payload lies.
struct FeatureCall {
  vfio::DeviceOps& device;
  Caller& caller;
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t payload;  // address in the client

  [[nodiscard]] bool is(std::uint32_t flag) const { return (flags & flag) != 0; }

  // vfio_check_feature: true if the operation is to be done, false if it was only asked for
  // (PROBE).
  [[nodiscard]] Result<bool> check(std::uint32_t operations, std::size_t size) const {
    constexpr std::uint32_t kOperations = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
    if ((flags & kOperations & ~operations) != 0) return fail(EINVAL);
    if (is(VFIO_DEVICE_FEATURE_PROBE)) return false;
    if ((flags & kOperations) == 0) return fail(EINVAL);
    if (argsz - sizeof(vfio_device_feature) < size) return fail(EINVAL);
    return true;
  }

  // check(), then `act`, whose result is the ioctl's.
  template <typename Act>
  [[nodiscard]] Result<int> run(std::uint32_t operations, std::size_t size, Act&& act) const {
    const auto wanted = check(operations, size);
    if (!wanted) return std::unexpected(wanted.error());
    return *wanted ? act() : Result<int>(0);
  }
};

Result<int> migration(const FeatureCall& call) {
  vfio::Migration* migration = call.device.migration();
  if (migration == nullptr) return fail(ENOTTY);
  return call.run(VFIO_DEVICE_FEATURE_GET, sizeof(vfio_device_feature_migration), [&] {
    return copy_struct_out(call.caller, call.payload,
                           vfio_device_feature_migration{.flags = migration->flags()});
  });
}

Result<int> device_state(const FeatureCall& call) {
  vfio::Migration* migration = call.device.migration();
  if (migration == nullptr) return fail(ENOTTY);
  using State = vfio_device_feature_mig_state;
  return call.run(
      VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET, sizeof(State), [&]() -> Result<int> {
        State state{};
        if (auto copied = copy_struct_in(call.caller, call.payload, state); !copied) {
          return std::unexpected(copied.error());
        }
        const std::uint32_t wanted = state.device_state;
        state.data_fd = -1;
        if (call.is(VFIO_DEVICE_FEATURE_GET)) {
          state.device_state = vfio::get_state(*migration);
          return copy_struct_out(call.caller, call.payload, state);
        }
        auto stream = vfio::set_state(*migration, wanted);
        // Whatever came of it, the struct goes back; and it has to fit before a descriptor is given
        // away.
        auto copied = copy_struct_out(call.caller, call.payload, state);
        if (!copied) return copied;
        if (!stream) return std::unexpected(stream.error());
        if (!*stream) return 0;
        const auto fd =
            call.caller.install(std::move(*stream), wanted != VFIO_DEVICE_STATE_RESUMING);
        if (!fd) return std::unexpected(fd.error());
        state.data_fd = *fd;
        return copy_struct_out(call.caller, call.payload, state);
      });
}

Result<int> data_size(const FeatureCall& call) {
  vfio::Migration* migration = call.device.migration();
  if (migration == nullptr) return fail(ENOTTY);
  using Size = vfio_device_feature_mig_data_size;
  return call.run(VFIO_DEVICE_FEATURE_GET, sizeof(Size), [&]() -> Result<int> {
    const auto size = migration->data_size();
    if (!size) return std::unexpected(size.error());
    return copy_struct_out(call.caller, call.payload, Size{.stop_copy_length = *size});
  });
}

Result<int> precopy_info_v2(const FeatureCall& call) {
  const vfio::Migration* migration = call.device.migration();
  if (migration == nullptr || (migration->flags() & VFIO_MIGRATION_PRE_COPY) == 0)
    return fail(EINVAL);
  return call.run(VFIO_DEVICE_FEATURE_SET, 0, [&] {
    *migration->precopy_info_v2() = true;
    return 0;
  });
}

Result<std::vector<vfio::DmaLogging::Range>> copy_ranges_in(
    Caller& caller, const vfio_device_feature_dma_logging_control& control) {
  constexpr std::uint32_t kMaxRanges = 256;  // LOG_MAX_RANGES
  if (control.num_ranges == 0) return fail(EINVAL);
  if (control.num_ranges > kMaxRanges) return fail(E2BIG);
  using Range = vfio_device_feature_dma_logging_range;
  std::vector<vfio::DmaLogging::Range> ranges;
  for (std::uint32_t i = 0; i < control.num_ranges; ++i) {
    Range range{};
    if (auto copied = copy_struct_in(caller, control.ranges + i * sizeof(Range), range); !copied) {
      return std::unexpected(copied.error());
    }
    if (((range.iova | range.length) & (control.page_size - 1)) != 0) return fail(EINVAL);
    if (range.iova + range.length < range.iova) return fail(EOVERFLOW);
    // In terms of first and last byte, as the kernel's interval tree: an empty range at 0 covers
    // everything.
    const bool overlaps = std::ranges::any_of(ranges, [&](const auto& other) {
      return range.iova <= other.iova + other.length - 1 &&
             other.iova <= range.iova + range.length - 1;
    });
    if (overlaps) return fail(EINVAL);
    ranges.push_back({.iova = range.iova, .length = range.length});
  }
  return ranges;
}

Result<int> dma_logging_start(const FeatureCall& call) {
  vfio::DmaLogging* logging = call.device.dma_logging();
  if (logging == nullptr) return fail(ENOTTY);
  using Control = vfio_device_feature_dma_logging_control;
  return call.run(VFIO_DEVICE_FEATURE_SET, sizeof(Control), [&]() -> Result<int> {
    Control control{};
    if (auto copied = copy_struct_in(call.caller, call.payload, control); !copied) {
      return std::unexpected(copied.error());
    }
    const auto ranges = copy_ranges_in(call.caller, control);
    if (!ranges) return std::unexpected(ranges.error());
    std::uint64_t page_size = control.page_size;
    if (auto started = logging->start(*ranges, page_size); !started) return done(started);
    control.page_size = page_size;
    auto copied = copy_struct_out(call.caller, call.payload, control);
    if (!copied) static_cast<void>(logging->stop());
    return copied;
  });
}

Result<int> dma_logging_stop(const FeatureCall& call) {
  vfio::DmaLogging* logging = call.device.dma_logging();
  if (logging == nullptr) return fail(ENOTTY);
  return call.run(VFIO_DEVICE_FEATURE_SET, 0, [&] { return done(logging->stop()); });
}

// Sets bits [first, first + count) of the client's bitmap.
Status set_user_bits(Caller& caller, std::uint64_t bitmap, std::uint64_t first,
                     std::uint64_t count) {
  while (count != 0) {
    const std::uint64_t at = bitmap + first / 64 * sizeof(std::uint64_t);
    const std::uint64_t run = std::min<std::uint64_t>(count, 64 - first % 64);
    std::uint64_t word{};
    if (auto copied = copy_struct_in(caller, at, word); !copied) {
      return std::unexpected(copied.error());
    }
    const std::uint64_t ones = run == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << run) - 1;
    word |= ones << first % 64;
    if (auto copied = copy_struct_out(caller, at, word); !copied)
      return std::unexpected(copied.error());
    first += run;
    count -= run;
  }
  return {};
}

Result<int> dma_logging_report(const FeatureCall& call) {
  vfio::DmaLogging* logging = call.device.dma_logging();
  if (logging == nullptr) return fail(ENOTTY);
  using Report = vfio_device_feature_dma_logging_report;
  return call.run(VFIO_DEVICE_FEATURE_GET, sizeof(Report), [&]() -> Result<int> {
    Report report{};
    if (auto copied = copy_struct_in(call.caller, call.payload, report); !copied) {
      return std::unexpected(copied.error());
    }
    const std::uint64_t page_size = report.page_size;
    if (page_size < memory::kPageSize || !std::has_single_bit(page_size)) return fail(EINVAL);
    if (report.iova + report.length < report.iova) return fail(EOVERFLOW);
    const auto mark = [&](std::uint64_t iova, std::uint64_t length) -> Status {
      if (length == 0 || iova < report.iova || iova + length > report.iova + report.length)
        return {};
      const std::uint64_t first = (iova - report.iova) / page_size;
      const std::uint64_t last = (iova + (length - 1) - report.iova) / page_size;
      return set_user_bits(call.caller, report.bitmap, first, last - first + 1);
    };
    return done(logging->report(report.iova, report.length, page_size, mark));
  });
}

Result<int> low_power_entry(const FeatureCall& call) {
  vfio::PciDevice* pci = call.device.pci();
  if (pci == nullptr) return fail(ENOTTY);
  return call.run(VFIO_DEVICE_FEATURE_SET, 0,
                  [&] { return done(pci->enter_low_power(std::nullopt)); });
}

Result<int> low_power_entry_with_wakeup(const FeatureCall& call) {
  vfio::PciDevice* pci = call.device.pci();
  if (pci == nullptr) return fail(ENOTTY);
  using Entry = vfio_device_low_power_entry_with_wakeup;
  return call.run(VFIO_DEVICE_FEATURE_SET, sizeof(Entry), [&]() -> Result<int> {
    Entry entry{};
    if (auto copied = copy_struct_in(call.caller, call.payload, entry); !copied) {
      return std::unexpected(copied.error());
    }
    if (entry.wakeup_eventfd < 0) return fail(EINVAL);
    auto fd = call.caller.get(entry.wakeup_eventfd);
    if (!fd) return std::unexpected(fd.error());
    auto event = EventFd::from(std::move(*fd));
    if (!event) return std::unexpected(event.error());
    return done(pci->enter_low_power(std::move(*event)));
  });
}

Result<int> low_power_exit(const FeatureCall& call) {
  vfio::PciDevice* pci = call.device.pci();
  if (pci == nullptr) return fail(ENOTTY);
  return call.run(VFIO_DEVICE_FEATURE_SET, 0, [&] {
    pci->exit_low_power();
    return 0;
  });
}

}  // namespace

Result<int> device_feature(vfio::DeviceOps& device, Caller& caller, std::uint64_t arg) {
  constexpr std::uint32_t kOperations = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
  constexpr std::uint32_t kFlags =
      VFIO_DEVICE_FEATURE_MASK | kOperations | VFIO_DEVICE_FEATURE_PROBE;
  vfio_device_feature header{};
  if (auto copied = copy_sized_struct_in(caller, arg, header, sizeof(vfio_device_feature));
      !copied) {
    return std::unexpected(copied.error());
  }
  if ((header.flags & ~kFlags) != 0) return fail(EINVAL);
  if ((header.flags & VFIO_DEVICE_FEATURE_PROBE) == 0 &&
      (header.flags & kOperations) == kOperations) {
    return fail(EINVAL);
  }
  const FeatureCall call{.device = device,
                         .caller = caller,
                         .argsz = header.argsz,
                         .flags = header.flags,
                         .payload = arg + sizeof(vfio_device_feature)};
  switch (header.flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
      return migration(call);
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      return device_state(call);
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      return data_size(call);
    case VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2:
      return precopy_info_v2(call);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
      return dma_logging_start(call);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
      return dma_logging_stop(call);
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
      return dma_logging_report(call);
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY:
      return low_power_entry(call);
    case VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP:
      return low_power_entry_with_wakeup(call);
    case VFIO_DEVICE_FEATURE_LOW_POWER_EXIT:
      return low_power_exit(call);
    case VFIO_DEVICE_FEATURE_DMA_BUF:
      // vfio-pci knows it, but no device here can hand out its BARs as dma-bufs.
      return fail(device.pci() != nullptr ? EOPNOTSUPP : ENOTTY);
    default:
      return fail(ENOTTY);
  }
}

Result<int> migration_ioctl(vfio::MigrationStream& stream, Caller& caller, std::uint32_t command,
                            std::uint64_t arg) {
  if (command != VFIO_MIG_GET_PRECOPY_INFO) return fail(ENOTTY);
  vfio_precopy_info info{};
  if (auto copied = copy_sized_struct_in(caller, arg, info, sizeof(vfio_precopy_info)); !copied) {
    return std::unexpected(copied.error());
  }
  const auto answer = stream.precopy_info();
  if (!answer) return std::unexpected(answer.error());
  if (stream.precopy_info_v2 && *stream.precopy_info_v2)
    info.flags = 0;  // version 1 leaves them alone
  info.initial_bytes = answer->initial_bytes;
  info.dirty_bytes = answer->dirty_bytes;
  return copy_struct_out(caller, arg, info);
}

}  // namespace uvfio::uapi
