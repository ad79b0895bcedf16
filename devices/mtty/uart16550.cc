#include "devices/mtty/uart16550.h"

#include <algorithm>

namespace uvfio::mtty {

void UartFifo::push(std::uint8_t byte) {
  bytes[head] = byte;
  head = (head + 1) % kCapacity;
  ++count;
}

std::uint8_t UartFifo::pop() {
  const std::uint8_t byte = bytes[tail];
  tail = (tail + 1) % kCapacity;
  --count;
  return byte;
}

void UartFifo::clear() { head = tail = count = 0; }

bool UartState::valid() const {
  constexpr std::uint8_t kCapacity = UartFifo::kCapacity;
  constexpr std::array<std::uint8_t, 5> kLevels{0, 1, 4, 8, 14};
  return fifo.head < kCapacity && fifo.tail < kCapacity && fifo.count <= kCapacity &&
         (fifo.tail + fifo.count) % kCapacity == fifo.head &&
         (fifo_size == 1 || fifo_size == kCapacity) &&
         std::ranges::find(kLevels, trigger_level) != kLevels.end();
}

Uart16550::Read Uart16550::read(unsigned address) {
  switch (decode(address).read) {
    case UartRegister::rbr:
      return receive();
    case UartRegister::ier:
      return {.value = static_cast<std::uint8_t>(state_.ier.bits & InterruptEnable::kMask)};
    case UartRegister::iir:
      return {.value = interrupt_id()};
    case UartRegister::lcr:
      return {.value = state_.lcr.bits};
    case UartRegister::mcr:
      return {.value = state_.mcr.bits};
    case UartRegister::lsr:
      return {.value = line_status()};
    case UartRegister::msr:
      return {.value = modem_status()};
    case UartRegister::scr:
      return {.value = state_.scr};
    case UartRegister::dll:
      return {.value = static_cast<std::uint8_t>(state_.divisor)};
    case UartRegister::dlm:
      return {.value = static_cast<std::uint8_t>(state_.divisor >> 8)};
    case UartRegister::thr:
    case UartRegister::fcr:
      break;
  }
  return {};
}

unsigned Uart16550::write(unsigned address, std::uint8_t value) {
  switch (decode(address).write) {
    case UartRegister::thr:
      return transmit(value);
    case UartRegister::ier:
      state_.ier.bits = value;
      return state_.ier.transmitter_empty() && state_.fifo.looks_empty() ? 1 : 0;
    case UartRegister::fcr:
      set_fifo_control({value});
      return 0;
    case UartRegister::lcr:
      state_.lcr.bits = value;
      // The two halves of the divisor are added to what is there, so selecting it clears it.
      if (state_.lcr.divisor_latch_access()) state_.divisor = 0;
      return 0;
    case UartRegister::mcr:
      return set_modem_control({value});
    case UartRegister::scr:
      state_.scr = value;
      return 0;
    case UartRegister::dll:
      state_.divisor |= value;
      return 0;
    case UartRegister::dlm:
      state_.divisor |= static_cast<std::uint16_t>(value << 8);
      return 0;
    case UartRegister::rbr:
    case UartRegister::iir:
    case UartRegister::lsr:
    case UartRegister::msr:
      break;
  }
  return 0;
}

bool Uart16550::interrupt_pending() const { return (interrupt_id() & InterruptId::kNone) == 0; }

UartAddress Uart16550::decode(unsigned address) const {
  const bool divisor = state_.lcr.divisor_latch_access() && address < kDivisorAddresses.size();
  return divisor ? kDivisorAddresses[address] : kUartAddresses[address];
}

Uart16550::Read Uart16550::receive() {
  Read result;
  if (!state_.fifo.looks_empty()) result.value = state_.fifo.pop();
  // What the receiver has taken, the transmitter no longer holds.
  if (state_.fifo.looks_empty() && state_.ier.transmitter_empty()) result.interrupts = 1;
  return result;
}

unsigned Uart16550::transmit(std::uint8_t byte) {
  if (state_.fifo.count >= state_.fifo_size) {
    state_.overrun = true;
    return state_.ier.line_status() ? 1 : 0;
  }
  state_.fifo.push(byte);
  state_.overrun = false;
  return state_.ier.received_data() && state_.fifo.count == state_.trigger_level ? 1 : 0;
}

void Uart16550::set_fifo_control(FifoControl fcr) {
  state_.fcr = fcr;
  if (fcr.clear_receiver() || fcr.clear_transmitter()) state_.fifo.clear();
  state_.fifo_size = fcr.enable() ? UartFifo::kCapacity : 1;
  // fcr.trigger_level() has to wait for a receiver time-out: without one, bytes below a higher
  // level would never be announced. The sample leaves it at 1 as well.
  state_.trigger_level = 1;
}

unsigned Uart16550::set_modem_control(ModemControl mcr) {
  state_.mcr = mcr;
  if (!state_.ier.modem_status()) return 0;
  unsigned interrupts = 0;
  if (mcr.out2()) ++interrupts;
  if (mcr.request_to_send() || mcr.data_terminal_ready()) ++interrupts;
  return interrupts;
}

std::uint8_t Uart16550::interrupt_id() const {
  const InterruptEnable ier = state_.ier;
  const bool modem = state_.mcr.request_to_send() || state_.mcr.data_terminal_ready();
  // The codes are chosen such that the highest priority wins when all are put together, except that
  // data and an empty transmitter at once (before the first write to FCR, or with a full FIFO) read
  // as line status. Clients of the sample know it like that.
  std::uint8_t id = 0;
  if (ier.line_status() && state_.overrun) id |= InterruptId::kLineStatus;
  if (ier.received_data() && state_.fifo.count >= state_.trigger_level) {
    id |= InterruptId::kReceivedData;
  }
  if (ier.transmitter_empty() && state_.fifo.looks_empty()) id |= InterruptId::kTransmitterEmpty;
  if (ier.modem_status() && modem) id |= InterruptId::kModemStatus;
  // A modem status interrupt alone is code 0, which the sample takes for none.
  if (id == 0) id = InterruptId::kNone;
  return id | InterruptId::kFifosEnabled;
}

std::uint8_t Uart16550::line_status() const {
  std::uint8_t status = 0;
  if (state_.fifo.looks_empty()) {
    status |= LineStatus::kHoldingRegisterEmpty | LineStatus::kTransmitterEmpty;
  } else {
    status |= LineStatus::kDataReady;
  }
  if (state_.overrun) status |= LineStatus::kOverrun;
  return status;
}

std::uint8_t Uart16550::modem_status() const {
  std::uint8_t status =
      ModemStatus::kDataSetReady | ModemStatus::kDeltaDataSetReady | ModemStatus::kCarrierDetect;
  const bool room = state_.fifo.count < state_.fifo_size;
  if (room || !state_.mcr.auto_flow_control()) {
    status |= ModemStatus::kClearToSend | ModemStatus::kDeltaClearToSend;
  }
  return status;
}

}  // namespace uvfio::mtty
