#include "pci/interrupt_unit.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace uvfio::pci {
namespace {

constexpr std::size_t vectors_of(const Description& description) {
  return description.msix ? description.msix->vectors : 0;
}

}  // namespace

InterruptUnit::InterruptUnit(const Description& description)
    : has_pin_(description.intx),
      table_(vectors_of(description) * PCI_MSIX_ENTRY_SIZE),
      msix_pending_((vectors_of(description) + 63) / 64) {
  clear_locked();
  update_locked();
}

void InterruptUnit::clear_locked() {
  control_ = {};
  msi_pending_ = 0;
  std::ranges::fill(msix_pending_, 0);
  std::ranges::fill(table_, std::byte{0});
  for (std::size_t at = PCI_MSIX_ENTRY_VECTOR_CTRL; at < table_.size(); at += PCI_MSIX_ENTRY_SIZE) {
    table_[at] = std::byte{PCI_MSIX_ENTRY_CTRL_MASKBIT};
  }
}

void InterruptUnit::set_sink(InterruptSink* sink) {
  const std::scoped_lock lock(mutex_);
  sink_ = sink;
  if (sink_ != nullptr && pin_) sink_->intx(true);
}

void InterruptUnit::reset() {
  const std::scoped_lock lock(mutex_);
  clear_locked();
  level_ = false;
  update_locked();
}

void InterruptUnit::control(const Control& control) {
  const std::scoped_lock lock(mutex_);
  control_ = control;
  if (!control_.msi_enabled) msi_pending_ = 0;
  if (!control_.msix_enabled) std::ranges::fill(msix_pending_, 0);
  update_locked();
  send_pending_locked();
}

// MSI-X and MSI exclude each other, and both exclude the pin (PCI 3.0, 6.8.2.1).
void InterruptUnit::update_locked() {
  InterruptMode mode = InterruptMode::none;
  if (has_pin_ && !control_.intx_disabled) mode = InterruptMode::intx;
  if (control_.msi_enabled) mode = InterruptMode::msi;
  if (control_.msix_enabled) mode = InterruptMode::msix;
  mode_.store(mode, std::memory_order_release);
  const bool pin = mode == InterruptMode::intx && level_;
  if (pin_.exchange(pin, std::memory_order_acq_rel) != pin && sink_ != nullptr) sink_->intx(pin);
}

bool InterruptUnit::entry_masked_locked(std::size_t vector) const {
  const auto control = table_[vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL];
  return (control & std::byte{PCI_MSIX_ENTRY_CTRL_MASKBIT}) != std::byte{0};
}

void InterruptUnit::raise(unsigned vector) {
  const std::scoped_lock lock(mutex_);
  if (!control_.bus_master) return;
  switch (mode_.load(std::memory_order_relaxed)) {
    case InterruptMode::msi:
      if (vector >= control_.msi_vectors) return;
      if ((control_.msi_mask >> vector & 1) != 0) {
        msi_pending_ |= 1u << vector;
        return;
      }
      break;
    case InterruptMode::msix:
      if (vector >= table_.size() / PCI_MSIX_ENTRY_SIZE) return;
      if (control_.msix_function_mask || entry_masked_locked(vector)) {
        msix_pending_[vector / 64] |= std::uint64_t{1} << vector % 64;
        return;
      }
      break;
    default:
      return;
  }
  if (sink_ != nullptr) sink_->message(vector);
}

void InterruptUnit::send_pending_locked() {
  if (!control_.bus_master) return;
  for (std::uint32_t ready = msi_pending_ & ~control_.msi_mask; ready != 0; ready &= ready - 1) {
    const auto vector = static_cast<unsigned>(std::countr_zero(ready));
    msi_pending_ &= ~(1u << vector);
    if (sink_ != nullptr) sink_->message(vector);
  }
  if (!control_.msix_enabled || control_.msix_function_mask) return;
  for (std::size_t word = 0; word < msix_pending_.size(); ++word) {
    for (std::uint64_t ready = msix_pending_[word]; ready != 0; ready &= ready - 1) {
      const auto vector = word * 64 + static_cast<unsigned>(std::countr_zero(ready));
      if (entry_masked_locked(vector)) continue;
      msix_pending_[word] &= ~(std::uint64_t{1} << vector % 64);
      if (sink_ != nullptr) sink_->message(static_cast<unsigned>(vector));
    }
  }
}

void InterruptUnit::set_intx(bool asserted) {
  const std::scoped_lock lock(mutex_);
  level_.store(asserted && has_pin_, std::memory_order_release);
  update_locked();
}

std::uint32_t InterruptUnit::msi_pending() {
  const std::scoped_lock lock(mutex_);
  return msi_pending_;
}

std::uint64_t InterruptUnit::read_table(std::uint64_t offset, unsigned width) {
  const std::scoped_lock lock(mutex_);
  std::uint64_t value = 0;
  std::memcpy(&value, table_.data() + offset, width);
  return value;
}

void InterruptUnit::write_table(std::uint64_t offset, unsigned width, std::uint64_t value) {
  const std::scoped_lock lock(mutex_);
  std::memcpy(table_.data() + offset, &value, width);
  // All of the vector control but the mask bit is reserved.
  const auto entry = offset / PCI_MSIX_ENTRY_SIZE * PCI_MSIX_ENTRY_SIZE;
  const auto control = std::span(table_).subspan(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 4);
  control[0] &= std::byte{PCI_MSIX_ENTRY_CTRL_MASKBIT};
  std::ranges::fill(control.subspan(1), std::byte{0});
  send_pending_locked();
}

std::uint64_t InterruptUnit::read_pending(std::uint64_t offset, unsigned width) {
  const std::scoped_lock lock(mutex_);
  std::uint64_t value = 0;
  std::memcpy(&value, std::as_bytes(std::span(msix_pending_)).data() + offset, width);
  return value;
}

void InterruptUnit::set_vector_masked(unsigned vector, bool masked) {
  const std::uint64_t entry = std::uint64_t{vector} * PCI_MSIX_ENTRY_SIZE;
  if (entry >= table_.size()) return;
  write_table(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0);
}

std::vector<std::byte> InterruptUnit::table() {
  const std::scoped_lock lock(mutex_);
  return table_;
}

void InterruptUnit::set_table(std::span<const std::byte> table) {
  const std::scoped_lock lock(mutex_);
  std::ranges::copy(table, table_.begin());
  send_pending_locked();
}

}  // namespace uvfio::pci
