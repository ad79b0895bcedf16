// A 16550 UART whose transmitter is wired to its own receiver. Registers and nothing else: no bus,
// no clock, no lock. It behaves as the UART of the kernel's mtty sample; README.md tells where that
// is not how a real 16550 behaves.
#pragma once

#include <array>
#include <cstdint>

namespace uvfio::mtty {

// ---- Registers (National Semiconductor PC16550D, 8.0)

enum class UartRegister : std::uint8_t {
  rbr,  // receiver buffer
  thr,  // transmitter holding register
  ier,  // interrupt enable
  iir,  // interrupt identification
  fcr,  // FIFO control
  lcr,  // line control
  mcr,  // modem control
  lsr,  // line status
  msr,  // modem status
  scr,  // scratch
  dll,  // divisor latch, low and high byte
  dlm,
};

// What lies at one address: it may differ for reads and writes.
struct UartAddress {
  UartRegister read;
  UartRegister write;
};

inline constexpr std::array<UartAddress, 8> kUartAddresses{{
    {UartRegister::rbr, UartRegister::thr},
    {UartRegister::ier, UartRegister::ier},
    {UartRegister::iir, UartRegister::fcr},
    {UartRegister::lcr, UartRegister::lcr},
    {UartRegister::mcr, UartRegister::mcr},
    {UartRegister::lsr, UartRegister::lsr},
    {UartRegister::msr, UartRegister::msr},
    {UartRegister::scr, UartRegister::scr},
}};

// What LCR.DLAB puts in front of the first addresses.
inline constexpr std::array<UartAddress, 2> kDivisorAddresses{{
    {UartRegister::dll, UartRegister::dll},
    {UartRegister::dlm, UartRegister::dlm},
}};

struct InterruptEnable {
  static constexpr std::uint8_t kMask = 0x0f;
  std::uint8_t bits = 0;
  [[nodiscard]] bool received_data() const { return bits & 0x01; }
  [[nodiscard]] bool transmitter_empty() const { return bits & 0x02; }
  [[nodiscard]] bool line_status() const { return bits & 0x04; }
  [[nodiscard]] bool modem_status() const { return bits & 0x08; }
};

struct InterruptId {
  static constexpr std::uint8_t kModemStatus = 0x00;
  static constexpr std::uint8_t kNone = 0x01;
  static constexpr std::uint8_t kTransmitterEmpty = 0x02;
  static constexpr std::uint8_t kReceivedData = 0x04;
  static constexpr std::uint8_t kLineStatus = 0x06;
  static constexpr std::uint8_t kFifosEnabled = 0xc0;
};

struct FifoControl {
  std::uint8_t bits = 0;
  [[nodiscard]] bool enable() const { return bits & 0x01; }
  [[nodiscard]] bool clear_receiver() const { return bits & 0x02; }
  [[nodiscard]] bool clear_transmitter() const { return bits & 0x04; }
  // Received bytes that the client asks to be told of.
  [[nodiscard]] std::uint8_t trigger_level() const {
    constexpr std::array<std::uint8_t, 4> kLevels{1, 4, 8, 14};
    return kLevels[bits >> 6];
  }
};

struct LineControl {
  std::uint8_t bits = 0;
  [[nodiscard]] bool divisor_latch_access() const { return bits & 0x80; }
};

struct ModemControl {
  std::uint8_t bits = 0;
  [[nodiscard]] bool data_terminal_ready() const { return bits & 0x01; }
  [[nodiscard]] bool request_to_send() const { return bits & 0x02; }
  [[nodiscard]] bool out2() const { return bits & 0x08; }
  [[nodiscard]] bool auto_flow_control() const { return bits & 0x20; }
};

struct LineStatus {
  static constexpr std::uint8_t kDataReady = 0x01;
  static constexpr std::uint8_t kOverrun = 0x02;
  static constexpr std::uint8_t kHoldingRegisterEmpty = 0x20;
  static constexpr std::uint8_t kTransmitterEmpty = 0x40;
};

struct ModemStatus {
  static constexpr std::uint8_t kDeltaClearToSend = 0x01;
  static constexpr std::uint8_t kDeltaDataSetReady = 0x02;
  static constexpr std::uint8_t kClearToSend = 0x10;
  static constexpr std::uint8_t kDataSetReady = 0x20;
  static constexpr std::uint8_t kCarrierDetect = 0x80;
};

// ---- The device

// The bytes that are on their way from the transmitter to the receiver.
struct UartFifo {
  static constexpr std::uint8_t kCapacity = 16;

  std::array<std::uint8_t, kCapacity> bytes{};
  std::uint8_t head = 0;  // where the next byte goes
  std::uint8_t tail = 0;  // where the oldest byte is
  std::uint8_t count = 0;

  // True when empty, and when full: the sample compares the two ends, and so a client of it sees a
  // full FIFO as an empty one that takes no byte.
  [[nodiscard]] bool looks_empty() const { return head == tail; }
  void push(std::uint8_t byte);
  [[nodiscard]] std::uint8_t pop();
  void clear();

  bool operator==(const UartFifo&) const = default;
};

// Everything a UART remembers.
struct UartState {
  InterruptEnable ier;
  FifoControl fcr;
  LineControl lcr;
  ModemControl mcr;
  std::uint8_t scr = 0;
  std::uint16_t divisor = 0;
  UartFifo fifo;
  std::uint8_t fifo_size = UartFifo::kCapacity;  // how much of the FIFO is in use: 16, or 1
  std::uint8_t trigger_level = 0;                // 0 until FCR is written for the first time
  bool overrun = false;

  // Can a UART be in this state? Asked of states that come from outside.
  [[nodiscard]] bool valid() const;
};

class Uart16550 {
 public:
  static constexpr std::uint64_t kSize = kUartAddresses.size();  // bytes of address space

  // What an access does besides moving a byte: so many interrupts.
  struct Read {
    std::uint8_t value = 0;
    unsigned interrupts = 0;
  };
  // `address` is below kSize.
  [[nodiscard]] Read read(unsigned address);
  [[nodiscard]] unsigned write(unsigned address, std::uint8_t value);

  // The level that the interrupt line of a real UART had: something is enabled and pending in IIR.
  [[nodiscard]] bool interrupt_pending() const;

  [[nodiscard]] const UartState& state() const { return state_; }
  // `state` is valid.
  void restore(const UartState& state) { state_ = state; }

 private:
  [[nodiscard]] UartAddress decode(unsigned address) const;
  [[nodiscard]] Read receive();
  [[nodiscard]] unsigned transmit(std::uint8_t byte);
  void set_fifo_control(FifoControl fcr);
  [[nodiscard]] unsigned set_modem_control(ModemControl mcr);
  [[nodiscard]] std::uint8_t interrupt_id() const;
  [[nodiscard]] std::uint8_t line_status() const;
  [[nodiscard]] std::uint8_t modem_status() const;

  UartState state_;
};

}  // namespace uvfio::mtty
