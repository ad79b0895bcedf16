#include <linux/vfio.h>

#include <limits>
#include <vector>

#include "uapi/handlers.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {

// vfio_set_irqs_validate_and_prepare, then the device.
Result<int> device_set_irqs(vfio::DeviceOps& device, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_irq_set, count);
  constexpr std::uint32_t kFlags = VFIO_IRQ_SET_DATA_TYPE_MASK | VFIO_IRQ_SET_ACTION_TYPE_MASK;
  vfio_irq_set header{};
  if (auto copied = copy_sized_struct_in(caller, arg, header, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  if (header.index >= device.info().num_irqs ||
      header.count >= std::numeric_limits<std::uint32_t>::max() - header.start ||
      (header.flags & ~kFlags) != 0) {
    return fail(EINVAL);
  }
  const auto limit = device.irq_limit(header.index);
  if (!limit) return std::unexpected(limit.error());
  if (header.start >= *limit || header.start + header.count > *limit) return fail(EINVAL);

  vfio::IrqSet set{
      .flags = header.flags, .index = header.index, .start = header.start, .count = header.count};
  std::size_t entry = 0;
  switch (set.data()) {
    case VFIO_IRQ_SET_DATA_NONE:
      break;
    case VFIO_IRQ_SET_DATA_BOOL:
      entry = sizeof(std::uint8_t);
      break;
    case VFIO_IRQ_SET_DATA_EVENTFD:
      entry = sizeof(std::int32_t);
      break;
    default:
      return fail(EINVAL);
  }
  const std::size_t size = entry * set.count;
  if (header.argsz - kMinSize < size) return fail(EINVAL);
  std::vector<std::int32_t> payload((size + sizeof(std::int32_t) - 1) / sizeof(std::int32_t));
  if (size != 0) {
    const auto bytes = std::as_writable_bytes(std::span(payload)).first(size);
    if (auto copied = caller.copy_in(arg + kMinSize, bytes); !copied)
      return std::unexpected(copied.error());
  }
  if (set.data() == VFIO_IRQ_SET_DATA_BOOL) {
    set.bools = {reinterpret_cast<const std::uint8_t*>(payload.data()), set.count};
  } else if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) {
    set.fds = payload;
  }
  set.fd_source = &caller;
  return device.set_irqs(set);
}

}  // namespace uvfio::uapi
