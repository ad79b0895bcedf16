#include "vfio_pci/ioeventfds.h"

#include <linux/vfio.h>

#include <algorithm>

#include "pci/layout.h"

namespace uvfio::vfio_pci {
namespace {

constexpr std::size_t kMost = 1000;  // VFIO_PCI_IOEVENTFD_MAX

}  // namespace

Status IoEventFds::set(const vfio::PciDevice::IoEventFd& request) {
  const auto [index, offset] = pci::split_position(request.position);
  if (index > VFIO_PCI_BAR5_REGION_INDEX) return fail(EINVAL);
  if (offset + request.width > function_.bar_size(index)) return fail(EINVAL);
  if (regions_.touches_msix_table(index, offset, request.width)) return fail(EINVAL);

  const std::lock_guard lock(mutex_);
  const auto same = std::ranges::find_if(entries_, [&](const Entry& entry) {
    return entry.bar == index && entry.offset == offset && entry.data == request.data &&
           entry.width == request.width;
  });
  if (same != entries_.end()) {
    if (request.fd >= 0) return fail(EEXIST);
    entries_.erase(same);
    return {};
  }
  if (request.fd < 0) return fail(ENODEV);
  if (entries_.size() >= kMost) return fail(ENOSPC);
  if (request.fd_source == nullptr) return fail(EBADF);
  auto fd = request.fd_source->get(request.fd);
  if (!fd) return std::unexpected(fd.error());
  auto event = EventFd::from(std::move(*fd));
  if (!event) return std::unexpected(event.error());

  Entry& entry = entries_.emplace_back();
  entry.bar = index;
  entry.offset = offset;
  entry.data = request.data;
  entry.width = request.width;
  auto enabled = entry.virqfd.enable(
      std::move(*event), [this, &entry] { write(entry); }, poller_);
  if (!enabled) entries_.pop_back();
  return enabled;
}

void IoEventFds::clear() {
  const std::lock_guard lock(mutex_);
  entries_.clear();
}

// While memory is not decoded, the write is dropped.
void IoEventFds::write(const Entry& entry) {
  const auto bytes = std::as_bytes(std::span(&entry.data, 1)).first(entry.width);
  static_cast<void>(function_.bar_write(entry.bar, entry.offset, bytes));
}

}  // namespace uvfio::vfio_pci
