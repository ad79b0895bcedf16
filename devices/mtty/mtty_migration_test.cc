#include "devices/mtty/mtty_migration.h"

#include <gtest/gtest.h>
#include <linux/serial_reg.h>

#include <string>
#include <thread>
#include <vector>

#include "devices/mtty/mtty_device.h"
#include "uvfio/vfio_compat.h"
#include "vfio/migration.h"

namespace uvfio::mtty {
namespace {

constexpr std::uint32_t kStop = VFIO_DEVICE_STATE_STOP;
constexpr std::uint32_t kRun = VFIO_DEVICE_STATE_RUNNING;
constexpr std::uint32_t kStopCopy = VFIO_DEVICE_STATE_STOP_COPY;
constexpr std::uint32_t kResume = VFIO_DEVICE_STATE_RESUMING;
constexpr std::uint32_t kPre = VFIO_DEVICE_STATE_PRE_COPY;
constexpr std::uint32_t kPreP2p = VFIO_DEVICE_STATE_PRE_COPY_P2P;

using Stream = std::shared_ptr<vfio::MigrationStream>;
using Bytes = std::vector<std::byte>;

class Card {
 public:
  explicit Card(unsigned ports = 1) : device(ports) {}

  void out(unsigned port, unsigned address, std::uint8_t value) {
    EXPECT_TRUE(
        device.write((std::uint64_t{port} << 40) + address, std::as_bytes(std::span(&value, 1))));
  }
  std::uint8_t in(unsigned port, unsigned address) {
    std::uint8_t value = 0;
    EXPECT_TRUE(device.read((std::uint64_t{port} << 40) + address,
                            std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
  void send(unsigned port, std::string_view text) {
    for (const char c : text) out(port, UART_TX, static_cast<std::uint8_t>(c));
  }
  std::string receive(unsigned port) {
    std::string text;
    while (in(port, UART_LSR) & UART_LSR_DR) text += static_cast<char>(in(port, UART_RX));
    return text;
  }
  // The stream that opens on the way, or nullptr.
  Stream go(std::uint32_t state) {
    auto stream = set_state(*device.migration(), state);
    EXPECT_TRUE(stream) << state;
    return stream.value_or(nullptr);
  }
  Errno go_fails(std::uint32_t state) {
    const auto stream = set_state(*device.migration(), state);
    EXPECT_FALSE(stream);
    return stream ? Errno{} : stream.error();
  }
  std::uint32_t state() { return get_state(*device.migration()); }
  Bytes save();

  MttyDevice device;
};

Bytes read_all(vfio::MigrationStream& stream) {
  Bytes data;
  for (;;) {
    std::array<std::byte, 50> part{};
    const auto done = stream.read(part);
    EXPECT_TRUE(done);
    if (done.value_or(0) == 0) return data;
    data.insert(data.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(*done));
  }
}

Bytes Card::save() {
  const Stream stream = go(kStopCopy);
  return stream ? read_all(*stream) : Bytes();
}

std::vector<unsigned> numbers(const Bytes& data) {
  std::vector<unsigned> result;
  for (const std::byte byte : data) result.push_back(std::to_integer<unsigned>(byte));
  return result;
}

TEST(MttyMigration, TellsWhatItCanDo) {
  Card one, two(2);
  EXPECT_EQ(one.device.migration()->flags(), 7u);
  EXPECT_EQ(one.state(), kRun);
  EXPECT_EQ(one.device.migration()->data_size(), 60u);
  EXPECT_EQ(two.device.migration()->data_size(), 96u);
}

TEST(MttyMigration, SavesInTheFormatOfTheSample) {
  Card card;
  card.out(0, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_14);
  card.out(0, UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
  card.out(0, UART_DLL, 0x34);
  card.out(0, UART_DLM, 0x12);
  card.out(0, UART_LCR, UART_LCR_WLEN8);
  card.out(0, UART_IER, UART_IER_RDI);
  card.out(0, UART_MCR, UART_MCR_RTS);
  card.out(0, UART_SCR, 0x5a);
  card.send(0, "uvfio");
  card.in(0, UART_RX);
  const std::vector<unsigned> expected{
      0x4e, 0x2c, 0x3e, 0x8c, 0x89, 0x09, 0x9d, 0x7e,  // magic
      1,    0,    0,    0,    0,    0,    0,    0,     // version 1.0
      1,    0,    0,    0,    0,    0,    0,    0,     // ports, flags
      0,    1,    0,    3,    2,    0,    0,    0x5a,  // registers
      'u',  'v',  'f',  'i',  'o',  0,    0,    0,    0, 0,
      0,    0,    0,    0,    0,    0,    5,    1,    4,  // head, tail, count
      0,    0,    0,                                      // DLAB, overrun, padding
      0x34, 0x12,                                         // divisor
      0xc1, 16,   1,    0};  // FCR, size of the FIFO, trigger level, padding
  EXPECT_EQ(numbers(card.save()), expected);
}

TEST(MttyMigration, AnotherCardGoesOn) {
  Card source(2), target(2);
  source.out(0, UART_SCR, 0x11);
  source.out(1, UART_SCR, 0x22);
  source.send(0, "left");
  source.send(1, "right");
  const Bytes data = source.save();
  const Stream stream = target.go(kResume);
  ASSERT_NE(stream, nullptr);
  for (const std::byte& byte : data) EXPECT_EQ(stream->write(std::span(&byte, 1)), 1u);
  EXPECT_EQ(target.in(0, UART_SCR), 0) << "not before it leaves RESUMING";
  EXPECT_EQ(target.go(kRun), nullptr);
  EXPECT_EQ(target.in(0, UART_SCR), 0x11);
  EXPECT_EQ(target.in(1, UART_SCR), 0x22);
  EXPECT_EQ(target.receive(0), "left");
  EXPECT_EQ(target.receive(1), "right");
  EXPECT_EQ(stream->write(std::span(data).first(1)).error(), Errno{ENODEV});
}

TEST(MttyMigration, PreCopyHasTheHeaderAndOneStreamToTheEnd) {
  Card card;
  const Stream stream = card.go(kPre);
  ASSERT_NE(stream, nullptr);
  EXPECT_EQ(stream->precopy_info()->initial_bytes, 24u);
  std::array<std::byte, 10> part{};
  EXPECT_EQ(stream->read(part), 10u);
  EXPECT_EQ(stream->precopy_info()->initial_bytes, 14u);
  EXPECT_EQ(stream->precopy_info()->dirty_bytes, 0u);
  EXPECT_EQ(read_all(*stream).size(), 14u);
  card.out(0, UART_SCR, 0x22);
  EXPECT_EQ(card.go(kPreP2p), nullptr);
  EXPECT_EQ(stream->precopy_info()->initial_bytes, 0u);
  EXPECT_EQ(card.go(kStopCopy), nullptr);
  EXPECT_EQ(stream->precopy_info().error(), Errno{EINVAL});
  const Bytes rest = read_all(*stream);
  ASSERT_EQ(rest.size(), 36u);
  EXPECT_EQ(rest[UART_SCR], std::byte{0x22});
}

TEST(MttyMigration, StreamsEndWithTheStateThatOpenedThem) {
  Card card;
  std::array<std::byte, 8> data{};
  const Stream first = card.go(kPre);
  card.go(kRun);
  EXPECT_EQ(first->read(data).error(), Errno{ENODEV});
  EXPECT_EQ(first->precopy_info().error(), Errno{EINVAL});
  const Stream second = card.go(kPreP2p);
  EXPECT_EQ(first->precopy_info().error(), Errno{ENODEV});
  EXPECT_EQ(second->read(data), data.size());
  EXPECT_TRUE(card.device.reset());
  EXPECT_EQ(card.state(), kRun);
  EXPECT_EQ(second->read(data).error(), Errno{ENODEV});
  const Stream third = card.go(kStopCopy);
  card.device.close_device();
  EXPECT_EQ(third->read(data).error(), Errno{ENODEV});
  EXPECT_EQ(card.state(), kStopCopy);
  EXPECT_EQ(card.go(kRun), nullptr);
}

TEST(MttyMigration, StreamsMayOutliveTheDevice) {
  Stream stream;
  {
    Card card;
    stream = card.go(kPre);
  }
  std::array<std::byte, 8> data{};
  EXPECT_EQ(stream->read(data).error(), Errno{ENODEV});
  EXPECT_EQ(stream->precopy_info().error(), Errno{ENODEV});
}

TEST(MttyMigration, StreamsHaveOneDirection) {
  Card card;
  std::array<std::byte, 8> data{};
  EXPECT_EQ(card.go(kStopCopy)->write(data).error(), Errno{EINVAL});
  const Stream resuming = card.go(kResume);
  EXPECT_EQ(resuming->read(data).error(), Errno{EINVAL});
  EXPECT_EQ(resuming->precopy_info().error(), Errno{ENOTTY});
}

TEST(MttyMigration, RefusesABadHeader) {
  Card card;
  const Bytes good = card.save();
  for (const std::size_t place : {0u, 8u, 12u, 16u, 20u}) {
    Bytes bad = good;
    bad[place] ^= std::byte{0x40};
    const Stream stream = card.go(kResume);
    EXPECT_EQ(stream->write(std::span(bad).first(23)), 23u);
    EXPECT_EQ(stream->write(std::span(bad).subspan(23, 1)).error(), Errno{EFAULT}) << place;
    EXPECT_EQ(stream->write(std::span(bad).subspan(24)), 36u);
    EXPECT_EQ(card.go_fails(kStop), Errno{EINVAL});
    EXPECT_EQ(card.state(), kResume);
    EXPECT_TRUE(card.device.reset());
  }
}

TEST(MttyMigration, RefusesTooMuchAndTooLittle) {
  Card card;
  Bytes data = card.save();
  data.emplace_back();
  const Stream stream = card.go(kResume);
  EXPECT_EQ(stream->write(data).error(), Errno{ENOMEM});
  EXPECT_EQ(stream->write(std::span(data).first(59)), 59u);
  EXPECT_EQ(card.go_fails(kRun), Errno{EINVAL});
  EXPECT_EQ(card.state(), kResume);
  EXPECT_EQ(stream->write(std::span(data).subspan(59)).error(), Errno{ENOMEM});
  EXPECT_EQ(stream->write(std::span(data).subspan(59, 1)), 1u);
  EXPECT_EQ(card.go(kRun), nullptr);
}

// The bytes come from a client: none may bring a port into a state that it cannot be in.
TEST(MttyMigration, RefusesImpossiblePorts) {
  Card source(2);
  source.send(1, "abc");
  const Bytes good = source.save();
  const std::size_t second = 24 + 36;
  const std::vector<std::pair<std::size_t, unsigned>> changes{{24, 16}, {25, 200}, {26, 17},
                                                              {27, 1},  {33, 15},  {34, 3}};
  for (const auto& [place, number] : changes) {
    Card card(2);
    card.out(0, UART_SCR, 0x77);
    Bytes bad = good;
    bad[second + place] = static_cast<std::byte>(number);
    EXPECT_EQ(card.go(kResume)->write(bad), bad.size());
    EXPECT_EQ(card.go_fails(kRun), Errno{EINVAL}) << place;
    EXPECT_EQ(card.state(), kResume);
    EXPECT_EQ(card.in(0, UART_SCR), 0x77) << "no port has changed";
  }
}

TEST(MttyMigration, AClosedDeviceCannotFinishResuming) {
  Card card;
  card.go(kResume);
  card.device.close_device();
  EXPECT_EQ(card.go_fails(kStop), Errno{EINVAL});
  EXPECT_TRUE(card.device.reset());
  EXPECT_EQ(card.state(), kRun);
}

TEST(MttyMigration, WalksBesideAccessesAndResets) {
  Card card;
  {
    std::vector<std::jthread> threads;
    threads.emplace_back([&card] {
      for (unsigned i = 0; i < 2000; ++i) {
        const auto stream = set_state(*card.device.migration(), 1 + i % 7);
        std::array<std::byte, 16> data{};
        if (stream && *stream) static_cast<void>((*stream)->read(data));
        if (stream && *stream) static_cast<void>((*stream)->precopy_info());
      }
    });
    threads.emplace_back([&card] {
      for (unsigned i = 0; i < 2000; ++i) EXPECT_TRUE(card.device.reset());
    });
    threads.emplace_back([&card] {
      for (unsigned i = 0; i < 2000; ++i) card.send(0, "x");
    });
  }
  EXPECT_TRUE(card.device.reset());
  EXPECT_EQ(card.state(), kRun);
}

}  // namespace
}  // namespace uvfio::mtty
