#include "devices/mtty/uart16550.h"

#include <gtest/gtest.h>
#include <linux/serial_reg.h>

#include <string>

namespace uvfio::mtty {
namespace {

class UartTest : public testing::Test {
 protected:
  std::uint8_t in(unsigned address) {
    const Uart16550::Read result = uart_.read(address);
    interrupts_ += result.interrupts;
    return result.value;
  }
  void out(unsigned address, std::uint8_t value) { interrupts_ += uart_.write(address, value); }
  void send(std::string_view text) {
    for (const char c : text) out(UART_TX, static_cast<std::uint8_t>(c));
  }
  std::string receive() {
    std::string text;
    while ((in(UART_LSR)&UART_LSR_DR) != 0) text += static_cast<char>(in(UART_RX));
    return text;
  }
  // Interrupts since the last call.
  unsigned take() { return std::exchange(interrupts_, 0); }

  Uart16550 uart_;
  unsigned interrupts_ = 0;
};

TEST_F(UartTest, StartsIdle) {
  EXPECT_EQ(in(UART_IER), 0);
  EXPECT_EQ(in(UART_IIR), 0xc1);
  EXPECT_EQ(in(UART_LCR), 0);
  EXPECT_EQ(in(UART_MCR), 0);
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
  EXPECT_EQ(in(UART_MSR), 0xb3);
  EXPECT_EQ(in(UART_SCR), 0);
  EXPECT_EQ(in(UART_RX), 0);
  EXPECT_EQ(take(), 0u);
}

TEST_F(UartTest, RegistersKeepWhatTheyShould) {
  for (const unsigned address : {UART_LCR, UART_MCR, UART_SCR}) {
    out(address, 0x5a);
    EXPECT_EQ(in(address), 0x5a) << address;
  }
  out(UART_IER, 0xff);
  EXPECT_EQ(in(UART_IER), 0x0f);
  out(UART_LSR, 0xff);
  out(UART_MSR, 0xff);
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
  EXPECT_EQ(in(UART_MSR), 0xb3);
}

TEST_F(UartTest, WhatIsSentComesBack) {
  send("uvfio");
  EXPECT_EQ(in(UART_LSR), UART_LSR_DR);
  EXPECT_EQ(receive(), "uvfio");
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
  for (int i = 0; i < 5; ++i) {
    send("0123456");
    EXPECT_EQ(receive(), "0123456") << "around the end of the ring";
  }
}

TEST_F(UartTest, TheDivisorHidesBehindDlab) {
  send("x");
  out(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
  EXPECT_EQ(in(UART_DLL), 0);
  out(UART_DLL, 0x0f);
  out(UART_DLM, 0x12);
  EXPECT_EQ(in(UART_DLL), 0x0f);
  EXPECT_EQ(in(UART_DLM), 0x12);
  out(UART_DLL, 0xf0);
  EXPECT_EQ(in(UART_DLL), 0xff) << "added until the divisor is selected anew";
  out(UART_LCR, UART_LCR_DLAB);
  EXPECT_EQ(in(UART_DLL), 0);
  EXPECT_EQ(in(UART_DLM), 0);
  out(UART_LCR, UART_LCR_WLEN8);
  EXPECT_EQ(in(UART_IER), 0);
  EXPECT_EQ(receive(), "x");
}

TEST_F(UartTest, AFullFifoOverruns) {
  send("0123456789abcde");
  EXPECT_EQ(in(UART_LSR), UART_LSR_DR);
  send("f");
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE) << "full looks empty";
  EXPECT_EQ(in(UART_RX), 0);
  send("g");
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE | UART_LSR_OE);
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE | UART_LSR_OE) << "reading keeps it";
  out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
  EXPECT_EQ(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE | UART_LSR_OE);
  send("h");
  EXPECT_EQ(in(UART_LSR), UART_LSR_DR);
  EXPECT_EQ(receive(), "h");
}

TEST_F(UartTest, WithoutFifoThereIsRoomForOne) {
  out(UART_FCR, 0);
  send("ab");
  EXPECT_EQ(in(UART_LSR), UART_LSR_DR | UART_LSR_OE);
  EXPECT_EQ(receive(), "a");
}

TEST_F(UartTest, EitherClearBitEmptiesTheFifo) {
  for (const std::uint8_t bit : {UART_FCR_CLEAR_RCVR, UART_FCR_CLEAR_XMIT}) {
    send("abc");
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    EXPECT_EQ(in(UART_LSR), UART_LSR_DR);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | bit);
    EXPECT_EQ(receive(), "");
  }
}

TEST_F(UartTest, TheTriggerLevelIsDecodedButOneIsUsed) {
  EXPECT_EQ(FifoControl{UART_FCR_TRIGGER_1}.trigger_level(), 1);
  EXPECT_EQ(FifoControl{UART_FCR_TRIGGER_4}.trigger_level(), 4);
  EXPECT_EQ(FifoControl{UART_FCR_TRIGGER_8}.trigger_level(), 8);
  EXPECT_EQ(FifoControl{UART_FCR_TRIGGER_14}.trigger_level(), 14);
  out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_14);
  out(UART_IER, UART_IER_RDI);
  send("a");
  EXPECT_EQ(take(), 1u);
  send("b");
  EXPECT_EQ(take(), 0u) << "only when the level is reached";
}

TEST_F(UartTest, DataInterrupts) {
  out(UART_IER, UART_IER_RDI);
  send("a");
  EXPECT_EQ(take(), 0u) << "no level before the first write to FCR";
  EXPECT_EQ(in(UART_IIR), 0xc4);
  EXPECT_TRUE(uart_.interrupt_pending());
  out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
  EXPECT_EQ(in(UART_IIR), 0xc1);
  EXPECT_FALSE(uart_.interrupt_pending());
  send("a");
  EXPECT_EQ(take(), 1u);
  EXPECT_EQ(in(UART_IIR), 0xc4);
  EXPECT_EQ(receive(), "a");
  EXPECT_EQ(take(), 0u);
  EXPECT_EQ(in(UART_IIR), 0xc1);
}

TEST_F(UartTest, TransmitterInterrupts) {
  out(UART_IER, UART_IER_THRI);
  EXPECT_EQ(take(), 1u);
  EXPECT_EQ(in(UART_IIR), 0xc2);
  out(UART_IER, UART_IER_THRI);
  EXPECT_EQ(take(), 1u) << "with every write";
  send("ab");
  EXPECT_EQ(take(), 0u);
  EXPECT_EQ(in(UART_IIR), 0xc1);
  in(UART_RX);
  EXPECT_EQ(take(), 0u);
  in(UART_RX);
  EXPECT_EQ(take(), 1u);
  in(UART_RX);
  EXPECT_EQ(take(), 1u) << "also for nothing";
}

TEST_F(UartTest, LineStatusInterrupts) {
  out(UART_FCR, 0);
  out(UART_IER, UART_IER_RLSI);
  send("a");
  EXPECT_EQ(take(), 0u);
  send("bc");
  EXPECT_EQ(take(), 2u);
  EXPECT_EQ(in(UART_IIR), 0xc6);
}

TEST_F(UartTest, ModemInterrupts) {
  out(UART_MCR, UART_MCR_OUT2 | UART_MCR_RTS);
  EXPECT_EQ(take(), 0u);
  out(UART_IER, UART_IER_MSI);
  EXPECT_EQ(take(), 0u);
  out(UART_MCR, UART_MCR_OUT2);
  EXPECT_EQ(take(), 1u);
  out(UART_MCR, UART_MCR_RTS | UART_MCR_DTR);
  EXPECT_EQ(take(), 1u);
  out(UART_MCR, UART_MCR_RTS | UART_MCR_OUT2);
  EXPECT_EQ(take(), 2u);
  out(UART_MCR, UART_MCR_OUT1 | UART_MCR_LOOP);
  EXPECT_EQ(take(), 0u);
  out(UART_MCR, UART_MCR_RTS);
  EXPECT_EQ(in(UART_IIR), 0xc1) << "its code is 0, which counts as none";
}

TEST_F(UartTest, TheMostUrgentInterruptIsNamed) {
  out(UART_FCR, UART_FCR_ENABLE_FIFO);
  out(UART_IER, 0x0f);
  EXPECT_EQ(in(UART_IIR), 0xc2);
  send("a");
  EXPECT_EQ(in(UART_IIR), 0xc4);
  out(UART_FCR, 0);
  send("b");
  EXPECT_EQ(in(UART_IIR), 0xc6);
  out(UART_IER, UART_IER_RDI | UART_IER_THRI | UART_IER_MSI);
  EXPECT_EQ(in(UART_IIR), 0xc4);
}

TEST_F(UartTest, AutoFlowControlTakesClearToSend) {
  out(UART_FCR, 0);
  out(UART_MCR, UART_MCR_AFE);
  EXPECT_EQ(in(UART_MSR), 0xb3);
  send("a");
  EXPECT_EQ(in(UART_MSR), 0xa2);
  out(UART_MCR, 0);
  EXPECT_EQ(in(UART_MSR), 0xb3);
}

TEST_F(UartTest, StatesFromOutsideAreChecked) {
  send("abc");
  UartState state = uart_.state();
  EXPECT_TRUE(state.valid());
  const auto broken = [&](auto change) {
    UartState copy = state;
    change(copy);
    return !copy.valid();
  };
  EXPECT_TRUE(broken([](UartState& s) { s.fifo.head = 16; }));
  EXPECT_TRUE(broken([](UartState& s) { s.fifo.tail = 255; }));
  EXPECT_TRUE(broken([](UartState& s) { s.fifo.count = 4; }));
  EXPECT_TRUE(broken([](UartState& s) { s.fifo.count = 19; }));
  EXPECT_TRUE(broken([](UartState& s) { s.fifo_size = 17; }));
  EXPECT_TRUE(broken([](UartState& s) { s.trigger_level = 2; }));
  Uart16550 other;
  other.restore(state);
  EXPECT_EQ(other.read(UART_RX).value, 'a');
}

// Whatever is done to it, it stays in a state that it can be in.
TEST_F(UartTest, EveryAccessLeavesAValidState) {
  std::uint32_t random = 1;
  const auto next = [&random](std::uint32_t limit) {
    random = random * 1664525 + 1013904223;
    return (random >> 8) % limit;
  };
  for (int i = 0; i < 200'000; ++i) {
    const unsigned address = next(Uart16550::kSize);
    if (next(2) == 0) {
      in(address);
    } else {
      out(address, static_cast<std::uint8_t>(next(256)));
    }
    ASSERT_TRUE(uart_.state().valid());
  }
}

}  // namespace
}  // namespace uvfio::mtty
