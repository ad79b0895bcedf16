#include "devices/nvme/interrupts.h"

#include <algorithm>

namespace uvfio::nvme {

void Interrupts::posted(const CompletionQueue& queue, unsigned entries) {
  if (!queue.interrupts || entries == 0) return;
  Due& due = due_[queue.vector];
  if (due.entries == 0 && features_.coalescing(queue.vector).entries != 0) due.since = Clock::now();
  due.entries += entries;
  any_ = true;
}

std::optional<Interrupts::Clock::time_point> Interrupts::send(pci::Port& port, Queues& queues,
                                                              std::uint32_t mask) {
  const pci::InterruptMode mode = port.interrupt_mode();
  // The pin shows that there are completions which the host has not taken.
  bool pin = false;
  if (mode == pci::InterruptMode::intx && (mask & 1) == 0) {
    queues.for_each_completion(
        [&](const CompletionQueue& queue) { pin |= queue.interrupts && !queue.empty(); });
  }
  if (pin != pin_) port.set_intx(pin_ = pin);

  if (!any_) return std::nullopt;
  std::optional<Clock::time_point> next;
  any_ = false;
  for (unsigned vector = 0; vector < due_.size(); ++vector) {
    Due& due = due_[vector];
    if (due.entries == 0) continue;
    // INTMS holds back MSI, too; MSI-X has masks of its own (section 3.1.3).
    const bool masked = mode == pci::InterruptMode::msi && vector < 32 && (mask >> vector & 1) != 0;
    const Features::Coalescing wait = features_.coalescing(vector);
    const Clock::time_point end = due.since + std::chrono::microseconds(100) * wait.time;
    const bool enough = wait.entries == 0 || due.entries >= wait.entries || Clock::now() >= end;
    if (enough && !masked) {
      due.entries = 0;
      if (mode == pci::InterruptMode::msi || mode == pci::InterruptMode::msix) port.raise(vector);
      continue;
    }
    any_ = true;
    if (!masked) next = next ? std::min(*next, end) : end;
  }
  return next;
}

void Interrupts::reset() {
  std::ranges::fill(due_, Due{});
  any_ = false;
  pin_ = false;
}

}  // namespace uvfio::nvme
