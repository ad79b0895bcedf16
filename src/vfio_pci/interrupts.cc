#include "vfio_pci/interrupts.h"

#include <algorithm>
#include <utility>

namespace uvfio::vfio_pci {
namespace {

pci::InterruptMode hardware_mode(bool msix) {
  return msix ? pci::InterruptMode::msix : pci::InterruptMode::msi;
}

}  // namespace

Interrupts::Interrupts(pci::Function& function)
    : function_(function),
      vectors_(std::max(function.vectors(pci::InterruptMode::msi),
                        function.vectors(pci::InterruptMode::msix))) {}

Interrupts::~Interrupts() { close(); }

void Interrupts::open() { function_.set_interrupt_sink(this); }

void Interrupts::close() {
  const std::lock_guard gate(igate_);
  disable_intx();
  disable_messages();
  function_.set_interrupt_sink(nullptr);
  const std::lock_guard lock(mutex_);
  intx_disabled_ = false;
  error_.reset();
  request_.reset();
}

Result<int> Interrupts::set_irqs(const vfio::IrqSet& set) {
  if (!set.complete()) return fail(EINVAL);
  const std::lock_guard gate(igate_);
  const std::uint32_t action = set.action();
  if (set.index == VFIO_PCI_INTX_IRQ_INDEX && action == VFIO_IRQ_SET_ACTION_MASK) {
    return mask_intx(set);
  }
  if (set.index == VFIO_PCI_INTX_IRQ_INDEX && action == VFIO_IRQ_SET_ACTION_UNMASK) {
    return unmask_intx(set);
  }
  if (action != VFIO_IRQ_SET_ACTION_TRIGGER) return fail(ENOTTY);
  switch (set.index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return trigger_intx(set);
    case VFIO_PCI_MSI_IRQ_INDEX:
      return trigger_messages(Type::msi, set);
    case VFIO_PCI_MSIX_IRQ_INDEX:
      return trigger_messages(Type::msix, set);
    case VFIO_PCI_ERR_IRQ_INDEX:
      return trigger_single(error_, set);
    case VFIO_PCI_REQ_IRQ_INDEX:
      return trigger_single(request_, set);
    default:
      return fail(ENOTTY);
  }
}

void Interrupts::set_intx_disabled(bool disabled) {
  const std::lock_guard gate(igate_);
  const std::lock_guard lock(mutex_);
  intx_disabled_ = disabled;
  if (type_ != Type::intx) return;
  if (disabled) {
    intx_masked_ = true;
  } else {
    unmask_locked();
  }
}

unsigned Interrupts::msi_vectors() const {
  const std::lock_guard lock(mutex_);
  return type_ == Type::msi ? allocated_ : 0;
}

bool Interrupts::request() const {
  const std::lock_guard lock(mutex_);
  if (request_) request_->signal();
  return request_.has_value();
}

// --- INTx

// The pin is masked by every interrupt, until the client unmasks it; then its level counts again.
void Interrupts::intx(bool asserted) {
  if (!asserted) return;
  const std::lock_guard lock(mutex_);
  if (type_ == Type::intx) raise_intx_locked();
}

void Interrupts::raise_intx_locked() {
  if (std::exchange(intx_masked_, true)) return;
  signal_intx_locked();
}

void Interrupts::signal_intx_locked() {
  if (intx_ && !intx_disabled_) intx_->signal();
}

void Interrupts::unmask() {
  const std::lock_guard lock(mutex_);
  if (type_ == Type::intx) unmask_locked();
}

// A pin that is still asserted interrupts again at once, and stays masked.
void Interrupts::unmask_locked() {
  if (!intx_masked_ || intx_disabled_) return;
  intx_masked_ = false;
  if (function_.intx_asserted()) raise_intx_locked();
}

Result<int> Interrupts::trigger_intx(const vfio::IrqSet& set) {
  if (type_ == Type::intx && set.turns_off()) {
    disable_intx();
    return 0;
  }
  if ((type_ != Type::intx && type_ != Type::none) || set.start != 0 || set.count != 1) {
    return fail(EINVAL);
  }
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) {
    std::optional<EventFd> event;
    if (set.fds[0] >= 0) {
      Result<EventFd> found = set.eventfd(0);
      if (!found) return std::unexpected(found.error());
      event = std::move(*found);
    }
    const std::lock_guard lock(mutex_);
    intx_ = std::move(event);
    if (type_ == Type::intx) return 0;
    // Enabled also without an eventfd.
    type_ = Type::intx;
    intx_masked_ = intx_disabled_;
    if (!intx_masked_ && function_.intx_asserted()) raise_intx_locked();
    return 0;
  }
  const std::lock_guard lock(mutex_);
  if (type_ != Type::intx) return fail(EINVAL);
  if (set.selects(0)) signal_intx_locked();
  return 0;
}

Result<int> Interrupts::mask_intx(const vfio::IrqSet& set) {
  if (type_ != Type::intx || set.start != 0 || set.count != 1) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) return fail(ENOTTY);
  const std::lock_guard lock(mutex_);
  if (set.selects(0)) intx_masked_ = true;
  return 0;
}

Result<int> Interrupts::unmask_intx(const vfio::IrqSet& set) {
  if (type_ != Type::intx || set.start != 0 || set.count != 1) return fail(EINVAL);
  if (set.data() != VFIO_IRQ_SET_DATA_EVENTFD) {
    if (set.selects(0)) unmask();
    return 0;
  }
  if (set.fds[0] < 0) {
    unmask_.disable();
    return 0;
  }
  Result<EventFd> event = set.eventfd(0);
  if (!event) return std::unexpected(event.error());
  if (auto enabled = unmask_.enable(std::move(*event), [this] { unmask(); }); !enabled) {
    return std::unexpected(enabled.error());
  }
  return 0;
}

void Interrupts::disable_intx() {
  unmask_.disable();
  const std::lock_guard lock(mutex_);
  if (type_ != Type::intx) return;
  type_ = Type::none;
  intx_.reset();
}

// --- MSI, MSI-X

void Interrupts::message(unsigned vector) {
  const std::lock_guard lock(mutex_);
  if (vector < vectors_.size() && vectors_[vector]) vectors_[vector]->signal();
}

Result<int> Interrupts::trigger_messages(Type type, const vfio::IrqSet& set) {
  if (type_ == type && set.turns_off()) {
    disable_messages();
    return 0;
  }
  if (type_ != type && type_ != Type::none) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) {
    return type_ == type ? change_messages(set) : enable_messages(type, set);
  }
  if (type_ != type) return fail(EINVAL);
  for (std::uint32_t i = 0; i < set.count; ++i) {
    if (set.selects(i)) message(set.start + i);
  }
  return 0;
}

Result<int> Interrupts::enable_messages(Type type, const vfio::IrqSet& set) {
  const std::uint64_t wanted = std::uint64_t{set.start} + set.count;
  const unsigned available = function_.vectors(hardware_mode(type == Type::msix));
  if (wanted == 0) return fail(ERANGE);  // as pci_alloc_irq_vectors for none at most
  if (available == 0) return fail(ENOSPC);
  if (wanted > available) return static_cast<int>(available);

  std::vector<std::optional<EventFd>> events(set.count);
  for (std::uint32_t i = 0; i < set.count; ++i) {
    if (set.fds[i] < 0) continue;
    Result<EventFd> event = set.eventfd(i);
    if (!event) return std::unexpected(event.error());
    events[i] = std::move(*event);
  }
  {
    const std::lock_guard lock(mutex_);
    std::ranges::move(events, vectors_.begin() + set.start);
    type_ = type;
    allocated_ = static_cast<unsigned>(wanted);
  }
  program_hardware(type, allocated_);
  return 0;
}

// From the first bad one on nothing more is set, and what the call has set before goes again.
Result<int> Interrupts::change_messages(const vfio::IrqSet& set) {
  // MSI vectors come all at once; MSI-X ones whenever they are wanted.
  const std::uint64_t limit =
      type_ == Type::msi ? allocated_ : function_.vectors(pci::InterruptMode::msix);
  for (std::uint32_t i = 0; i < set.count; ++i) {
    const std::uint64_t vector = std::uint64_t{set.start} + i;
    Status status;
    std::optional<EventFd> event;
    if (set.fds[i] >= 0) {
      Result<EventFd> found = vector < limit ? set.eventfd(i) : fail(EINVAL);
      if (found) {
        event = std::move(*found);
      } else {
        status = std::unexpected(found.error());
      }
    }
    if (!status) {
      for (std::uint64_t undo = set.start; undo <= vector && undo < limit; ++undo) {
        set_vector(static_cast<unsigned>(undo), std::nullopt);
      }
      return std::unexpected(status.error());
    }
    if (vector < limit) set_vector(static_cast<unsigned>(vector), std::move(event));
  }
  return 0;
}

// A vector without an eventfd is masked: what the device sends on it meanwhile is pending.
void Interrupts::set_vector(unsigned vector, std::optional<EventFd> event) {
  const bool masked = !event;
  {
    const std::lock_guard lock(mutex_);
    vectors_[vector] = std::move(event);
  }
  if (type_ == Type::msix) function_.set_vector_masked(vector, masked);
}

void Interrupts::program_hardware(Type type, unsigned count) {
  static_cast<void>(function_.enable_messages(hardware_mode(type == Type::msix), count));
  if (type != Type::msix) return;
  for (unsigned vector = 0; vector < function_.vectors(pci::InterruptMode::msix); ++vector) {
    bool masked = false;
    {
      const std::lock_guard lock(mutex_);
      masked = !vectors_[vector];
    }
    function_.set_vector_masked(vector, masked);
  }
}

void Interrupts::disable_messages() {
  {
    const std::lock_guard lock(mutex_);
    if (type_ != Type::msi && type_ != Type::msix) return;
    type_ = Type::none;
    allocated_ = 0;
    std::ranges::fill(vectors_, std::nullopt);
  }
  function_.disable_messages();
}

void Interrupts::restore() {
  const std::lock_guard gate(igate_);
  if (type_ == Type::msi || type_ == Type::msix) program_hardware(type_, allocated_);
}

// --- Errors and requests: one eventfd each, beside any other interrupts

Result<int> Interrupts::trigger_single(std::optional<EventFd>& event, const vfio::IrqSet& set) {
  if (set.start != 0 || set.count > 1) return fail(EINVAL);
  if (set.data() == VFIO_IRQ_SET_DATA_EVENTFD) {
    if (set.count == 0 || set.fds[0] < -1) return fail(EINVAL);
    std::optional<EventFd> replacement;
    if (set.fds[0] >= 0) {
      Result<EventFd> found = set.eventfd(0);
      if (!found) return std::unexpected(found.error());
      replacement = std::move(*found);
    }
    const std::lock_guard lock(mutex_);
    event = std::move(replacement);
    return 0;
  }
  const std::lock_guard lock(mutex_);
  if (set.data() == VFIO_IRQ_SET_DATA_BOOL) {
    if (set.count == 0) return fail(EINVAL);
    if (set.selects(0) && event) event->signal();
    return 0;
  }
  if (!event) return fail(EINVAL);
  if (set.count != 0) {
    event->signal();
  } else {
    event.reset();
  }
  return 0;
}

}  // namespace uvfio::vfio_pci
