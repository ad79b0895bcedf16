#include "pci/interrupts.h"

#include <algorithm>

namespace uvfio::pci {

Result<int> Interrupts::set_irqs(const vfio::IrqSet& set) {
  if (!set.complete()) return fail(EINVAL);
  const std::lock_guard lock(mutex_);
  switch (set.index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return set_intx(set);
    case VFIO_PCI_MSI_IRQ_INDEX:
      return set_msi(set);
    default:
      return fail(ENOTTY);
  }
}

void Interrupts::raise(std::uint32_t vector) {
  const std::lock_guard lock(mutex_);
  if (mode_ == Mode::intx) raise_intx();
  if (mode_ == Mode::msi) raise_msi(vector);
}

void Interrupts::set_level(bool asserted) {
  const std::lock_guard lock(mutex_);
  intx_level_ = asserted;
  if (mode_ == Mode::intx && intx_level_) raise_intx();
}

void Interrupts::disable() {
  const std::lock_guard lock(mutex_);
  disable_locked();
}

Result<int> Interrupts::set_intx(const vfio::IrqSet& set) {
  switch (set.action()) {
    case VFIO_IRQ_SET_ACTION_MASK:
      return set_intx_mask(set, true);
    case VFIO_IRQ_SET_ACTION_UNMASK:
      return set_intx_mask(set, false);
    case VFIO_IRQ_SET_ACTION_TRIGGER:
      break;
    default:
      return fail(ENOTTY);
  }
  if (mode_ == Mode::intx && set.turns_off()) {
    disable_locked();
    return 0;
  }
  if (mode_ == Mode::msi || set.start != 0 || set.count != 1) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) {
    // The old eventfd goes first, so that a bad descriptor leaves INTx off.
    disable_locked();
    if (set.fds[0] < 0) return 0;
    Result<EventFd> event = set.eventfd(0);
    if (!event) return std::unexpected(event.error());
    intx_ = std::move(*event);
    mode_ = Mode::intx;
    if (intx_level_) raise_intx();
    return 0;
  }
  if (mode_ != Mode::intx) return fail(EINVAL);
  if (set.selects(0)) raise_intx();
  return 0;
}

Result<int> Interrupts::set_intx_mask(const vfio::IrqSet& set, bool masked) {
  if (mode_ != Mode::intx || set.start != 0 || set.count != 1) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) return fail(ENOTTY);
  if (!set.selects(0)) return 0;
  intx_masked_ = masked;
  if (intx_level_) raise_intx();
  return 0;
}

Result<int> Interrupts::set_msi(const vfio::IrqSet& set) {
  if (set.action() != VFIO_IRQ_SET_ACTION_TRIGGER) return fail(ENOTTY);
  if (mode_ == Mode::msi && set.turns_off()) {
    disable_locked();
    return 0;
  }
  const bool in_range =
      set.count != 0 && set.start < msi_.size() && set.count <= msi_.size() - set.start;
  if (mode_ == Mode::intx || !in_range) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) return set_msi_eventfds(set);
  if (mode_ != Mode::msi) return fail(EINVAL);
  for (std::uint32_t i = 0; i < set.count; ++i) {
    if (set.selects(i)) raise_msi(set.start + i);
  }
  return 0;
}

Result<int> Interrupts::set_msi_eventfds(const vfio::IrqSet& set) {
  const auto vectors = std::span(msi_).subspan(set.start, set.count);
  // The old eventfds go first, so that a bad descriptor leaves none of these vectors set.
  std::ranges::fill(vectors, std::nullopt);
  Result<int> result = 0;
  for (std::uint32_t i = 0; i < set.count; ++i) {
    if (set.fds[i] < 0) continue;
    Result<EventFd> event = set.eventfd(i);
    if (!event) {
      result = std::unexpected(event.error());
      std::ranges::fill(vectors, std::nullopt);
      break;
    }
    vectors[i] = std::move(*event);
  }
  const bool any = std::ranges::any_of(msi_, [](const auto& vector) { return vector.has_value(); });
  mode_ = any ? Mode::msi : Mode::none;
  return result;
}

void Interrupts::disable_locked() {
  mode_ = Mode::none;
  intx_.reset();
  intx_masked_ = false;
  std::ranges::fill(msi_, std::nullopt);
}

void Interrupts::raise_intx() {
  if (intx_masked_) return;
  intx_->signal();
  intx_masked_ = true;
}

void Interrupts::raise_msi(std::uint32_t vector) {
  if (vector < msi_.size() && msi_[vector]) msi_[vector]->signal();
}

}  // namespace uvfio::pci
