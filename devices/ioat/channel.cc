#include "devices/ioat/channel.h"

#include <span>

namespace uvfio::ioat {

namespace {

constexpr std::uint64_t mask_of(unsigned bytes) {
  return bytes >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes)) - 1;
}

// Calls visit(register, shift) for each register that [offset, offset + width) touches; the
// register's bit 0 is bit `shift` of the access, which may be negative.
template <typename Visit>
void for_each_register(std::uint64_t offset, unsigned width, Visit&& visit) {
  for (const Register& each : kRegisters) {
    if (each.offset >= offset + width) break;
    if (each.end() <= offset) continue;
    visit(each, (static_cast<int>(each.offset) - static_cast<int>(offset)) * 8);
  }
}

constexpr std::uint64_t shift_left(std::uint64_t value, int by) {
  return by >= 0 ? value << by : value >> -by;
}

}  // namespace

Channel::Channel(pci::Port& port, RegisterFile registers, Faults faults)
    : port_(port), registers_(registers), faults_(faults) {}

void Channel::reset() {
  engine_.reset();
  registers_.power_on();
  if (intx_) port_.set_intx(false);
  intx_ = false;
  armed_ = true;
  missed_ = false;
  errors_ = 0;
  completed_ = 0;
  done_ = issued_ = 0;
  state_ = ChanState::halted;
  setup_seen_ = {};
  interrupts_were_off_ = false;
  suspended_halted_ = false;
  control_then_ = control();
}

// ---- Accesses that trap

std::uint64_t Channel::read(std::uint64_t offset, unsigned width) {
  std::uint64_t value = 0;
  for_each_register(offset, width, [&](const Register& which, int shift) {
    value |= shift_left(registers_.get(which), shift);
    if (which.access == Access::clear_on_read) acknowledge();
  });
  return value & mask_of(width);
}

void Channel::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  for_each_register(offset, width, [&](const Register& which, int shift) {
    const std::uint64_t bits = shift_left(mask_of(width), -shift) & mask_of(which.width);
    const std::uint64_t piece = shift_left(value & mask_of(width), -shift) & bits;
    switch (which.access) {
      case Access::read_only:
      case Access::clear_on_read:
        break;
      case Access::read_write:
        registers_.set(which, (registers_.get(which) & ~bits) | piece);
        break;
      case Access::write_one_to_clear:
        clear_errors(static_cast<std::uint32_t>(piece));
        break;
    }
  });
  observe();
}

// ---- What the driver has written

bool Channel::observe() {
  bool something = observe_command();
  something |= observe_errors();
  // The count before everything that the driver writes before it.
  something |= observe_count();

  const std::array setup{registers_.get(kChanCmp), registers_.get(kChainAddr)};
  if (setup != setup_seen_) {
    setup_seen_ = setup;
    something = true;
  }
  // A chain address arms the channel. But a driver takes any halt that it sees once it has written
  // one for an error, while right after a reset it looks for the halt: through a mapping, both are
  // one and the same read. Between them it enables its interrupts or, if it has none, says in
  // CHANCTRL what errors should do.
  if (state_ == ChanState::halted && errors_ == 0) {
    const bool interrupts_off = port_.interrupt_mode() == pci::InterruptMode::none;
    if ((!interrupts_off && interrupts_were_off_) || control() != control_then_ || setup[1] != 0) {
      publish(ChanState::armed);
      something = true;
    }
    interrupts_were_off_ |= interrupts_off;
  }
  return something;
}

bool Channel::observe_command() {
  bool something = false;
  if ((registers_.load<std::uint16_t>(kChanCtrl) & ChanCtrl::kRearm) != 0) {
    registers_.clear_bits<std::uint16_t>(kChanCtrl, ChanCtrl::kRearm);
    rearm();
    something = true;
  }
  if (const auto bits = registers_.load<std::uint8_t>(kChanCmd); bits != 0) {
    command(bits);
    // Last, because a driver waits for it. If it is another command by now, that one is next.
    registers_.replace<std::uint8_t>(kChanCmd, bits, 0);
    something = true;
  }
  return something;
}

std::uint16_t Channel::control() const {
  return registers_.load<std::uint16_t>(kChanCtrl) & static_cast<std::uint16_t>(~ChanCtrl::kRearm);
}

bool Channel::observe_errors() {
  const auto value = registers_.load<std::uint32_t>(kChanErr);
  if (value == errors_) return false;
  clear_errors(value);
  return true;
}

void Channel::clear_errors(std::uint32_t bits) {
  errors_ &= ~bits;
  registers_.store(kChanErr, errors_);
}

bool Channel::observe_count() {
  const auto count = registers_.load<std::uint16_t>(kDmaCount);
  const auto chain = registers_.load<std::uint64_t>(kChainAddr);
  if (!stopped()) {
    if (count == issued_) return false;
    issued_ = count;
    if (issued_ != done_) publish(ChanState::active);
    return true;
  }
  // Stopped: a count after a chain address starts that chain; without one it counts on, for a later
  // resume.
  if (count == 0 || chain == 0) return false;
  start(chain);
  issued_ = count;
  return true;
}

void Channel::command(std::uint8_t bits) {
  if ((bits & ChanCmd::kReset) != 0) {
    // CHANCTRL and CHANCMP stay: Linux resets a channel in the middle of its life and does not
    // write them again.
    errors_ = 0;
    registers_.store(kChanErr, errors_);
    completed_ = 0;
    registers_.store(kCdar, std::uint64_t{0});
    acknowledge();
    armed_ = true;
    missed_ = false;
    // A driver that has suspended a halted channel does not look for the halt that comes of a
    // reset, and DPDK's has little patience later.
    stop(suspended_halted_ ? ChanState::armed : ChanState::halted);
    suspended_halted_ = false;
    interrupts_were_off_ = port_.interrupt_mode() == pci::InterruptMode::none;
  } else if ((bits & ChanCmd::kAbort) != 0) {
    stop(ChanState::halted);
  } else if ((bits & ChanCmd::kSuspend) != 0) {
    suspended_halted_ = state_ == ChanState::halted;
    if (!stopped()) stop(ChanState::suspended);
  } else if ((bits & ChanCmd::kResume) != 0) {
    if (state_ == ChanState::suspended) resume();
  }
}

void Channel::start(std::uint64_t chain) {
  // The writes that clear them cannot be seen through a mapping; nor would a driver start without
  // them.
  clear_errors(errors_);
  next_ = chain;
  first_ = true;
  completed_ = 0;
  done_ = 0;
  publish(ChanState::active);
}

void Channel::resume() {
  // The register has read zero since the stop; a count written since then goes on from the old one.
  if (!registers_.replace<std::uint16_t>(kDmaCount, 0, issued_))
    issued_ = registers_.load<std::uint16_t>(kDmaCount);
  publish(issued_ == done_ ? ChanState::idle : ChanState::active);
}

void Channel::stop(ChanState state) {
  const auto count = registers_.exchange<std::uint16_t>(kDmaCount, 0);
  interrupts_were_off_ = false;
  control_then_ = control();
  // While it is stopped, a chain address is for what comes: DPDK writes one right behind a reset.
  if (!stopped()) {
    issued_ = count;
    registers_.store(kChainAddr, std::uint64_t{0});
  }
  publish(state);
}

// Last of all that a driver waits for.
void Channel::publish(ChanState state) {
  state_ = state;
  registers_.store(kChanSts, completed_ | static_cast<std::uint64_t>(state));
}

// ---- Descriptors

bool Channel::execute() {
  if (stopped() || issued_ == done_) return false;
  Engine* const work = engine();
  if (work == nullptr) return false;

  if (next_ % sizeof(Descriptor) != 0) {
    fail_with(first_ ? ChanErr::kChainAddress : ChanErr::kNextAlignment);
    return true;
  }
  Descriptor descriptor;
  const auto fetched =
      work->descriptors.read(next_, std::as_writable_bytes(std::span(&descriptor, 1)));
  if (!fetched) {
    if (value(fetched.error()) == EACCES) return false;
    fail_with(first_ ? ChanErr::kChainAddress : ChanErr::kNextAddress);
    return true;
  }
  registers_.store(kCdar, next_);

  bool stalled = false;
  const std::uint32_t error = run(descriptor, stalled);
  if (stalled) return false;
  if (error != 0) {
    fail_with(error);
    return true;
  }

  completed_ = next_;
  next_ = descriptor.next;
  first_ = false;
  ++done_;
  // A doorbell that came meanwhile keeps the channel active.
  issued_ = registers_.load<std::uint16_t>(kDmaCount);
  state_ = issued_ == done_ ? ChanState::idle : ChanState::active;
  if ((descriptor.control & Descriptor::kCompletionWrite) != 0 && !write_completion()) {
    fail_with(ChanErr::kCompletionAddress);
    return true;
  }
  publish(state_);
  if ((descriptor.control & Descriptor::kInterrupt) != 0) interrupt();
  return true;
}

std::uint32_t Channel::run(const Descriptor& descriptor, bool& stalled) {
  if (descriptor.size == 0 || descriptor.size > kMaxTransfer) return ChanErr::kLength;
  Transfer& transfer = engine_->transfer;
  Moved moved = Moved::done;
  switch (descriptor.operation()) {
    case Descriptor::kCopy:
      if ((descriptor.control & Descriptor::kNull) == 0)
        moved = transfer.copy(descriptor.source, descriptor.destination, descriptor.size);
      break;
    case Descriptor::kFill:
      moved = transfer.fill(descriptor.source, descriptor.destination, descriptor.size);
      break;
    default:
      return ChanErr::kControl;
  }
  switch (moved) {
    case Moved::done:
      return 0;
    case Moved::read_fault:
      return ChanErr::kReadData;
    case Moved::write_fault:
      return ChanErr::kWriteData;
    case Moved::not_master:
      break;
  }
  stalled = true;
  return 0;
}

Channel::Engine* Channel::engine() {
  if (engine_) return engine_.get();
  auto descriptors = port_.dma();
  auto source = port_.dma();
  auto destination = port_.dma();
  if (!descriptors || !source || !destination) return nullptr;  // nobody has the function open
  engine_ = std::make_unique<Engine>(
      Engine{.descriptors = std::move(*descriptors),
             .transfer = Transfer(std::move(*source), std::move(*destination), faults_)});
  return engine_.get();
}

bool Channel::write_completion() {
  const std::uint64_t status = completed_ | static_cast<std::uint64_t>(state_);
  const auto where = registers_.load<std::uint64_t>(kChanCmp);
  if (where % sizeof status == 0) {
    // In one piece, and after all data: drivers poll it.
    const auto window = engine_->descriptors.translate(where, sizeof status, vfio::Prot::write);
    if (window) {
      std::atomic_ref(*reinterpret_cast<std::uint64_t*>(window->data()))
          .store(status, std::memory_order_release);
      return true;
    }
    if (window.error() != Errno{EOPNOTSUPP}) return false;
  }
  return engine_->descriptors.write(where, std::as_bytes(std::span(&status, 1))).has_value();
}

void Channel::fail_with(std::uint32_t error) {
  errors_ |= error;
  registers_.store(kChanErr, errors_);
  const auto control = registers_.load<std::uint16_t>(kChanCtrl);
  stop(ChanState::halted);
  if ((control & ChanCtrl::kErrorCompletion) != 0 && error != ChanErr::kCompletionAddress &&
      !write_completion()) {
    errors_ |= ChanErr::kCompletionAddress;
    registers_.store(kChanErr, errors_);
  }
  if ((control & ChanCtrl::kErrorInterrupt) != 0) interrupt();
}

// ---- Interrupts: one, then none until CHANCTRL's re-arm bit is written

void Channel::interrupt() {
  // The driver may have re-armed since the last look.
  if (!armed_) {
    missed_ = true;
    return;
  }
  armed_ = false;
  announce();
}

void Channel::announce() {
  const auto control = registers_.load<std::uint8_t>(kIntrCtrl);
  const bool master = (control & IntrCtrl::kMasterEnable) != 0;
  registers_.set_bits<std::uint32_t>(kAttnStatus, 1);
  registers_.set_bits<std::uint8_t>(
      kIntrCtrl, IntrCtrl::kStatus | (master ? IntrCtrl::kInterrupt : std::uint8_t{0}));
  switch (port_.interrupt_mode()) {
    case pci::InterruptMode::msix:
      if (master || (control & IntrCtrl::kMsixVectors) != 0) port_.raise(0);
      break;
    case pci::InterruptMode::msi:
      if (master) port_.raise(0);
      break;
    case pci::InterruptMode::intx:
      if (master) {
        intx_ = true;
        port_.set_intx(true);
      }
      break;
    case pci::InterruptMode::none:
      break;
  }
}

// The driver has seen the interrupt: reading ATTNSTATUS, or re-arming where a read cannot be seen.
void Channel::acknowledge() {
  registers_.store(kAttnStatus, std::uint32_t{0});
  registers_.clear_bits<std::uint8_t>(kIntrCtrl, IntrCtrl::kStatus | IntrCtrl::kInterrupt);
  if (intx_) port_.set_intx(false);
  intx_ = false;
}

void Channel::rearm() {
  acknowledge();
  armed_ = true;
  if (!missed_) return;
  missed_ = false;
  interrupt();
}

}  // namespace uvfio::ioat
