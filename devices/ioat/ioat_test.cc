#include "devices/ioat/ioat.h"

#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/fake_device.h"
#include "uvfio/embedded.h"
#include "uvfio/host.h"

namespace uvfio::ioat {
namespace {

using namespace std::chrono_literals;

// The library's side: one open function, whose DMA goes to the memory of this process.
class FakePort final : public pci::Port {
 public:
  explicit FakePort(vfio::Device& device) : device_(device) {}

  std::span<std::byte> bar_memory(unsigned bar) override {
    return bar == 0 ? std::span(memory) : std::span<std::byte>();
  }
  Result<vfio::Dma> dma() override { return device_.dma(&master); }
  pci::InterruptMode interrupt_mode() override { return mode; }
  void raise(unsigned vector) override {
    EXPECT_EQ(vector, 0u);
    ++messages;
  }
  void set_intx(bool asserted) override { intx = asserted; }

  alignas(4096) std::array<std::byte, 0x4000> memory{};
  std::atomic<bool> master{false};
  std::atomic<pci::InterruptMode> mode{pci::InterruptMode::none};
  std::atomic<int> messages{0};
  std::atomic<bool> intx{false};

 private:
  vfio::Device& device_;
};

constexpr std::uint64_t kIova = 0x40000000;
constexpr std::size_t kSize = 8 << 20;
constexpr std::uint64_t kUnmapped = 0x10000000;
// Where things are in the mapped memory.
constexpr std::uint64_t kSource = 0;
constexpr std::uint64_t kDestination = 2 << 20;
constexpr std::uint64_t kRing = 4 << 20;
constexpr std::uint64_t kCompletion = 7 << 20;

class IoatTest : public ::testing::Test {
 protected:
  IoatTest() {
    device_ = host_.vfio().register_emulated("ioat", "devices/ioat",
                                             std::make_unique<testing::FakeDevice>(record_));
    container_ = host_.vfio().open_container();
    group_ = *device_->group().open();
    EXPECT_TRUE(group_->set_container(container_));
    EXPECT_TRUE(container_->set_iommu(VFIO_TYPE1v2_IOMMU));
    void* where = nullptr;
    EXPECT_EQ(posix_memalign(&where, 4096, kSize), 0);
    memory_ = static_cast<std::byte*>(where);
    std::memset(memory_, 0, kSize);
    EXPECT_TRUE(embedded::map_dma(*container_, kIova, memory_, kSize));
    file_ = *vfio::GroupFile::get_device(group_, "ioat");
    port_.emplace(*record_.device);
    open(Faults::drop);
  }
  ~IoatTest() override {
    ioat_.reset();
    file_.reset();
    group_.reset();
    container_.reset();
    host_.vfio().unregister(device_);
    std::free(memory_);
  }

  void open(Faults faults) {
    ioat_ = std::make_unique<Ioat>(faults);
    ioat_->connect(*port_);
    master(true);
    registers_ = RegisterFile(port_->memory);
  }
  void master(bool on) {
    port_->master = on;
    ioat_->bus_master_changed(on);
  }

  // ---- A driver that has the registers mapped.

  // Waits for a register; the test's time limit is the limit.
  template <typename Done>
  void wait(const Register& which, Done&& done) {
    while (!done(registers_.get(which))) std::this_thread::yield();
  }
  ChanState state() { return static_cast<ChanState>(registers_.get(kChanSts) & 7); }
  void wait_for(ChanState wanted) {
    wait(kChanSts,
         [&](std::uint64_t status) { return (status & 7) == static_cast<unsigned>(wanted); });
  }
  void reset_channel() {
    registers_.set(kChanCmd, ChanCmd::kReset);
    wait(kChanCmd, [](std::uint64_t command) { return command == 0; });
    EXPECT_EQ(state(), ChanState::halted);
  }
  void enable_msix() {
    registers_.set(kIntrCtrl, IntrCtrl::kMsixVectors);
    port_->mode = pci::InterruptMode::msix;
    ioat_->interrupt_mode_changed();
    EXPECT_EQ(state(), ChanState::armed);
  }
  void suspend() {
    registers_.set(kChanCmd, ChanCmd::kSuspend);
    wait_for(ChanState::suspended);
  }
  void start(std::uint64_t chain, std::uint16_t count) {
    registers_.set(kChainAddr, chain);
    registers_.set(kChanCtrl, ChanCtrl::kRearm | ChanCtrl::kAnyErrorAbort | control_);
    registers_.set(kDmaCount, count);
  }
  Descriptor& descriptor(unsigned index) {
    return reinterpret_cast<Descriptor*>(memory_ + kRing)[index];
  }
  static std::uint64_t descriptor_iova(unsigned index) {
    return kIova + kRing + index * sizeof(Descriptor);
  }
  Descriptor copy(std::uint64_t source, std::uint64_t destination, std::uint32_t size) {
    return {.size = size,
            .source = kIova + source,
            .destination = kIova + destination,
            .next = descriptor_iova(0)};
  }
  void fill_source(std::size_t size) {
    std::independent_bits_engine<std::minstd_rand, 8, unsigned> random(seed_++);
    std::generate_n(memory_ + kSource, size, [&] { return static_cast<std::byte>(random()); });
  }
  bool copied(std::size_t size) {
    return std::memcmp(memory_ + kSource, memory_ + kDestination, size) == 0;
  }

  // ---- A driver whose accesses trap.
  std::uint64_t get(const Register& which) { return ioat_->read_bar(0, which.offset, which.width); }
  void set(const Register& which, std::uint64_t value) {
    ioat_->write_bar(0, which.offset, which.width, value);
  }

  Host host_;
  testing::FakeDevice::Record record_;
  std::shared_ptr<vfio::Device> device_;
  std::shared_ptr<vfio::Container> container_;
  std::shared_ptr<vfio::GroupFile> group_;
  std::shared_ptr<vfio::DeviceFile> file_;
  std::byte* memory_ = nullptr;
  std::optional<FakePort> port_;
  std::unique_ptr<Ioat> ioat_;
  RegisterFile registers_;
  std::uint16_t control_ = 0;
  unsigned seed_ = 1;
};

TEST_F(IoatTest, IsWhatDriversProbeFor) {
  const pci::Description& description = ioat_->description();
  EXPECT_EQ(description.vendor_id, 0x8086);
  EXPECT_EQ(description.device_id, 0x2021);
  EXPECT_EQ(get(kCbVer), 0x33u);
  EXPECT_EQ(get(kChanCnt), 1u);
  EXPECT_EQ(get(kXferCapRegister), kXferCap);
  EXPECT_EQ(get(kChanSts), static_cast<std::uint64_t>(ChanState::halted));
  // Several registers, and parts of one.
  EXPECT_EQ(ioat_->read_bar(0, 0, 4), 0x1401u);
  EXPECT_EQ(ioat_->read_bar(0, 0x11, 1), 0u);
  EXPECT_EQ(ioat_->read_bar(0, 0x3ff8, 8), 0u);
  ioat_->write_bar(0, 0, 8, ~0ull);
  EXPECT_EQ(ioat_->read_bar(0, 0, 2), 0x1401u);
  ioat_->write_bar(0, kChanCmp.offset + 4, 4, 0x12345678);
  EXPECT_EQ(get(kChanCmp), 0x1234567800000000u);
}

// What the kernel's selftests do: one descriptor that leads to itself, started again and again with
// the same values in every register.
TEST_F(IoatTest, MappedDriverRepeatsItself) {
  reset_channel();
  enable_msix();
  for (const std::uint32_t size : {1u, 8u, 4096u, 65537u, 1u << 20}) {
    for (int round = 0; round < 3; ++round) {
      fill_source(size);
      descriptor(0) = copy(kSource, kDestination, size);
      start(descriptor_iova(0), 1);
      wait_for(ChanState::idle);
      EXPECT_TRUE(copied(size));
      EXPECT_EQ(registers_.get(kChanSts) & ~7ull, descriptor_iova(0));
      suspend();
    }
  }
  EXPECT_EQ(port_->messages, 0);
  EXPECT_EQ(registers_.get(kChanErr), 0u);
}

// DPDK's has no interrupts, and does not start a channel that is halted.
TEST_F(IoatTest, MappedDriverWithoutInterruptsFindsItArmed) {
  for (int round = 0; round < 2; ++round) {
    if (round == 0) {
      reset_channel();
      registers_.set(kChanCtrl, ChanCtrl::kErrorCompletion | ChanCtrl::kAnyErrorAbort);
      wait(kChanSts, [](std::uint64_t status) {
        return status == static_cast<std::uint64_t>(ChanState::armed);
      });
    } else {
      registers_.set(kChanCmd, ChanCmd::kSuspend);
      wait(kChanCmd, [](std::uint64_t command) { return command == 0; });
      EXPECT_EQ(state(), ChanState::halted);
      registers_.set(kChanCmd, ChanCmd::kReset);
      wait(kChanCmd, [](std::uint64_t command) { return command == 0; });
      EXPECT_EQ(state(), ChanState::armed);
    }
    fill_source(8);
    descriptor(0) = copy(kSource, kDestination, 8);
    registers_.set(kChainAddr, descriptor_iova(0));
    EXPECT_EQ(state(), ChanState::armed);
    registers_.set(kDmaCount, 1);
    wait_for(ChanState::idle);
    EXPECT_TRUE(copied(8));
    suspend();
    // How it recovers: it waits for nothing but the channel's being armed.
    registers_.set(kChanCmd, ChanCmd::kReset);
    registers_.set(kChainAddr, descriptor_iova(0));
    wait_for(ChanState::armed);
    std::memset(memory_ + kDestination, 0, 8);
    registers_.set(kDmaCount, 1);
    wait_for(ChanState::idle);
    EXPECT_TRUE(copied(8));
    suspend();
    // The next driver's.
    ioat_->reset();
    master(true);
  }
}

TEST_F(IoatTest, MappedDriverGetsOneMessageForEachStart) {
  reset_channel();
  enable_msix();
  for (int round = 1; round <= 20; ++round) {
    descriptor(0) = copy(kSource, kDestination, 8);
    descriptor(0).control = Descriptor::kInterrupt;
    start(descriptor_iova(0), 3);
    wait_for(ChanState::idle);
    suspend();
    // Three descriptors, but re-armed once; the rest comes with the next re-arming.
    EXPECT_GE(port_->messages, round);
  }
  EXPECT_LE(port_->messages, 40);
}

// As Linux's ioatdma: a ring, counts that go on and on, completions in memory.
TEST_F(IoatTest, RingWithCountsThatWrap) {
  reset_channel();
  constexpr unsigned kEntries = 1024;
  for (unsigned i = 0; i < kEntries; ++i) {
    descriptor(i) = copy(kSource + 8 * i, kDestination + 8 * i, 8);
    descriptor(i).control = Descriptor::kCompletionWrite;
    descriptor(i).next = descriptor_iova((i + 1) % kEntries);
  }
  registers_.set(kChanCmp, kIova + kCompletion);
  const auto completion = std::atomic_ref(*reinterpret_cast<std::uint64_t*>(memory_ + kCompletion));
  fill_source(8 * kEntries);
  unsigned total = 1;
  start(descriptor_iova(0), 1);
  const auto finish = [&] {
    const std::uint64_t last = descriptor_iova((total - 1) % kEntries);
    while ((completion.load() & ~0x3full) != last) std::this_thread::yield();
  };
  finish();
  while (total < 70000) {
    total += 1000;
    registers_.set(kDmaCount, static_cast<std::uint16_t>(total));
    finish();
  }
  EXPECT_TRUE(copied(8 * kEntries));
  wait_for(ChanState::idle);
}

TEST_F(IoatTest, DoorbellOfZeroIsSeen) {
  for (unsigned i = 0; i < 2; ++i) {
    descriptor(i) = copy(kSource + 8 * i, kDestination + 8 * i, 8);
    descriptor(i).next = descriptor_iova(1 - i);
  }
  fill_source(16);
  start(descriptor_iova(0), 65535);
  wait(kChanSts, [](std::uint64_t status) { return status == (descriptor_iova(0) | 1); });
  registers_.set(kDmaCount, 0);
  wait(kChanSts, [](std::uint64_t status) { return status == (descriptor_iova(1) | 1); });
  EXPECT_TRUE(copied(16));
}

TEST_F(IoatTest, ResumeGoesOnWhereItStopped) {
  for (unsigned i = 0; i < 4; ++i) {
    descriptor(i) = copy(kSource + 8 * i, kDestination + 8 * i, 8);
    descriptor(i).next = descriptor_iova(i + 1);
  }
  fill_source(32);
  start(descriptor_iova(0), 2);
  wait_for(ChanState::idle);
  suspend();
  registers_.set(kDmaCount, 4);  // goes on from the count of before
  registers_.set(kChanCmd, ChanCmd::kResume);
  wait(kChanSts, [](std::uint64_t status) { return status == (descriptor_iova(3) | 1); });
  EXPECT_TRUE(copied(32));
}

TEST_F(IoatTest, RefusedReadsAreOnesAndRefusedWritesAreLost) {
  fill_source(8192);
  std::memset(memory_ + kDestination, 0, 8192);
  // One page is there, the next is not.
  descriptor(0) = {.size = 8192,
                   .source = kIova + kSize - 4096,
                   .destination = kIova + kDestination,
                   .next = descriptor_iova(0)};
  std::memset(memory_ + kSize - 4096, 0x5a, 4096);
  start(descriptor_iova(0), 1);
  wait_for(ChanState::idle);
  EXPECT_EQ(std::count(memory_ + kDestination, memory_ + kDestination + 4096, std::byte{0x5a}),
            4096);
  EXPECT_EQ(
      std::count(memory_ + kDestination + 4096, memory_ + kDestination + 8192, std::byte{0xff}),
      4096);
  suspend();
  descriptor(0).source = kIova + kSource;
  descriptor(0).destination = kUnmapped;
  start(descriptor_iova(0), 1);
  wait_for(ChanState::idle);
  EXPECT_EQ(registers_.get(kChanErr), 0u);
}

struct Mistake {
  const char* name;
  Descriptor descriptor;
  std::uint64_t chain;
  std::uint32_t error;
};

TEST_F(IoatTest, HaltsAndSaysWhy) {
  open(Faults::report);
  const std::uint64_t here = kIova + kSource;
  const std::uint64_t there = kIova + kDestination;
  const std::uint64_t ring = descriptor_iova(0);
  const Mistake mistakes[] = {
      {"source", {.size = 64, .source = kUnmapped, .destination = there}, ring, ChanErr::kReadData},
      {"destination",
       {.size = 64, .source = here, .destination = kUnmapped},
       ring,
       ChanErr::kWriteData},
      {"last byte",
       {.size = 4097, .source = here, .destination = kIova + kSize - 4096},
       ring,
       ChanErr::kWriteData},
      {"wraps", {.size = 64, .source = ~0ull - 8, .destination = there}, ring, ChanErr::kReadData},
      {"empty", {.size = 0, .source = here, .destination = there}, ring, ChanErr::kLength},
      {"too long",
       {.size = (1u << 20) + 1, .source = here, .destination = there},
       ring,
       ChanErr::kLength},
      {"operation",
       {.size = 64, .control = 0x87u << 24, .source = here, .destination = there},
       ring,
       ChanErr::kControl},
      {"completion",
       {.size = 64, .control = Descriptor::kCompletionWrite, .source = here, .destination = there},
       ring,
       ChanErr::kCompletionAddress},
      {"chain", {}, kUnmapped, ChanErr::kChainAddress},
      {"chain alignment", {}, ring + 32, ChanErr::kChainAddress},
      {"next",
       {.size = 64, .source = here, .destination = there, .next = kUnmapped},
       ring,
       ChanErr::kNextAddress},
      {"next alignment",
       {.size = 64, .source = here, .destination = there, .next = ring + 8},
       ring,
       ChanErr::kNextAlignment},
  };
  registers_.set(kChanCmp, kUnmapped);
  reset_channel();
  enable_msix();
  int messages = 0;
  for (const Mistake& mistake : mistakes) {
    SCOPED_TRACE(mistake.name);
    descriptor(0) = mistake.descriptor;
    control_ = ChanCtrl::kErrorInterrupt;
    start(mistake.chain, 2);
    wait(kChanErr, [](std::uint64_t error) { return error != 0; });
    EXPECT_EQ(registers_.get(kChanErr), mistake.error);
    ++messages;
    while (port_->messages < messages) std::this_thread::yield();
    reset_channel();
    EXPECT_EQ(registers_.get(kChanErr), 0u);
  }
  EXPECT_EQ(port_->messages, messages);
}

TEST_F(IoatTest, ErrorsAreWrittenToMemoryAsLinuxWants) {
  open(Faults::report);
  reset_channel();
  registers_.set(kChanCmp, kIova + kCompletion);
  control_ = ChanCtrl::kErrorCompletion;
  descriptor(0) = copy(kSource, kDestination, 8);
  descriptor(0).next = descriptor_iova(1);
  descriptor(1) = copy(kSource, kDestination, 0);
  start(descriptor_iova(0), 2);
  const auto completion = std::atomic_ref(*reinterpret_cast<std::uint64_t*>(memory_ + kCompletion));
  while (completion.load() == 0) std::this_thread::yield();
  EXPECT_EQ(completion.load(), descriptor_iova(0) | 3);
}

TEST_F(IoatTest, TrappingDriverSeesEveryEffectAtOnce) {
  open(Faults::report);
  set(kChanCmd, ChanCmd::kReset);
  EXPECT_EQ(get(kChanCmd), 0u);
  EXPECT_EQ(get(kChanSts), 3u);
  descriptor(0) = copy(kSource, kDestination, 0);
  set(kChainAddr, descriptor_iova(0));
  set(kDmaCount, 1);
  wait_for(ChanState::halted);
  EXPECT_EQ(get(kChanErr), ChanErr::kLength);
  set(kChanErr, ~ChanErr::kLength & 0xffffffffu);
  EXPECT_EQ(get(kChanErr), ChanErr::kLength);
  set(kChanErr, ChanErr::kLength);  // the value that is there
  EXPECT_EQ(get(kChanErr), 0u);

  descriptor(0) = copy(kSource, kDestination, 8);
  for (int round = 0; round < 3; ++round) {
    set(kChainAddr, descriptor_iova(0));
    set(kDmaCount, 1);
    EXPECT_NE(static_cast<ChanState>(get(kChanSts) & 7), ChanState::halted);
    wait_for(ChanState::idle);
    set(kChanCmd, ChanCmd::kSuspend);
    EXPECT_EQ(static_cast<ChanState>(get(kChanSts) & 7), ChanState::suspended);
  }
}

TEST_F(IoatTest, PinStaysAssertedUntilItIsSeen) {
  port_->mode = pci::InterruptMode::intx;
  descriptor(0) = copy(kSource, kDestination, 8);
  descriptor(0).control = Descriptor::kInterrupt | Descriptor::kNull;
  set(kIntrCtrl, IntrCtrl::kMasterEnable);
  set(kChainAddr, descriptor_iova(0));
  set(kChanCtrl, ChanCtrl::kRearm);
  set(kDmaCount, 1);
  while (!port_->intx) std::this_thread::yield();
  EXPECT_EQ(get(kIntrCtrl), 7u);
  EXPECT_EQ(get(kAttnStatus), 1u);
  EXPECT_FALSE(port_->intx);
  EXPECT_EQ(get(kIntrCtrl), 1u);
  // Not armed: the next one waits.
  set(kDmaCount, 2);
  wait(kChanSts, [](std::uint64_t status) { return (status & 7) == 1; });
  EXPECT_FALSE(port_->intx);
  set(kChanCtrl, ChanCtrl::kRearm);
  EXPECT_TRUE(port_->intx);
  // Through a mapping, re-arming is what is seen.
  registers_.set(kChanCtrl, ChanCtrl::kRearm);
  while (port_->intx) std::this_thread::yield();
}

TEST_F(IoatTest, MsiNeedsTheMasterEnable) {
  descriptor(0) = copy(kSource, kDestination, 8);
  descriptor(0).control = Descriptor::kInterrupt;
  port_->mode = pci::InterruptMode::msi;
  start(descriptor_iova(0), 1);
  wait_for(ChanState::idle);
  suspend();
  EXPECT_EQ(port_->messages, 0);
  registers_.set(kIntrCtrl, IntrCtrl::kMasterEnable);
  start(descriptor_iova(0), 1);
  while (port_->messages == 0) std::this_thread::yield();
  EXPECT_EQ(registers_.get(kAttnStatus), 1u);
}

TEST_F(IoatTest, FillRepeatsThePattern) {
  constexpr std::uint32_t kLength = 100003;
  descriptor(0) = {.size = kLength,
                   .control = Descriptor::kFill << 24,
                   .source = 0x0807060504030201,
                   .destination = kIova + kDestination,
                   .next = descriptor_iova(0)};
  start(descriptor_iova(0), 1);
  wait_for(ChanState::idle);
  for (std::size_t i = 0; i < kLength; ++i)
    ASSERT_EQ(memory_[kDestination + i], static_cast<std::byte>(i % 8 + 1));
  EXPECT_EQ(memory_[kDestination + kLength], std::byte{0});
}

TEST_F(IoatTest, NothingMovesWithoutBusMastering) {
  fill_source(64);
  descriptor(0) = copy(kSource, kDestination, 64);
  master(false);
  set(kChainAddr, descriptor_iova(0));
  set(kDmaCount, 1);
  EXPECT_EQ(get(kChanSts), 0u);  // active
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(copied(64));
  master(true);
  wait_for(ChanState::idle);
  EXPECT_TRUE(copied(64));
}

TEST_F(IoatTest, ResetEndsEverything) {
  descriptor(0) = copy(kSource, kDestination, 1 << 20);
  start(descriptor_iova(0), 60000);
  wait_for(ChanState::active);
  ioat_->reset();
  EXPECT_EQ(get(kChanSts), 3u);
  EXPECT_EQ(get(kDmaCount), 0u);
  // No DMA: the memory can go.
  EXPECT_TRUE(embedded::unmap_dma(*container_, kIova, kSize));
  std::memset(memory_ + kDestination, 0, 1 << 20);
  fill_source(1 << 20);
  std::this_thread::sleep_for(5ms);
  EXPECT_FALSE(copied(1 << 20));
}

TEST_F(IoatTest, ResetClearsWhatIsBetweenRegisters) {
  const auto is_register = [](std::size_t at) {
    return std::ranges::any_of(
        kRegisters, [&](const Register& each) { return at >= each.offset && at < each.end(); });
  };
  for (std::size_t at = 0; at < port_->memory.size(); ++at) {
    if (!is_register(at)) port_->memory[at] = std::byte{0xa5};
  }
  ioat_->reset();
  for (std::size_t at = 0; at < port_->memory.size(); ++at) {
    if (is_register(at)) continue;
    ASSERT_EQ(port_->memory[at], std::byte{0}) << "at " << at;
  }
  for (const Register& each : kRegisters) EXPECT_EQ(registers_.get(each), each.reset);
}

TEST_F(IoatTest, UnmapWhileItCopies) {
  descriptor(0) = copy(kSource, kDestination, 1 << 20);
  start(descriptor_iova(0), 60000);
  wait(kChanSts, [](std::uint64_t status) { return status >= kIova; });
  EXPECT_TRUE(embedded::unmap_dma(*container_, kIova, kSize));
  // The descriptor itself has gone.
  wait_for(ChanState::halted);
  EXPECT_EQ(registers_.get(kChanErr), ChanErr::kNextAddress);
}

}  // namespace
}  // namespace uvfio::ioat
