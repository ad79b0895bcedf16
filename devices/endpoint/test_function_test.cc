#include "devices/endpoint/test_function.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

namespace uvfio::endpoint {
namespace {

// Memory from address kBase on, and the interrupts that came.
class FakeHost final : public TestFunction::Host {
 public:
  static constexpr std::uint64_t kBase = 0x1'0000'0000;

  Status read(std::uint64_t address, std::span<std::byte> data) override {
    if (address < kBase || address - kBase + data.size() > memory.size()) return fail(EINVAL);
    std::ranges::copy(std::span(memory).subspan(address - kBase, data.size()), data.begin());
    return {};
  }
  Status write(std::uint64_t address, std::span<const std::byte> data) override {
    if (address < kBase || address - kBase + data.size() > memory.size()) return fail(EINVAL);
    std::ranges::copy(data, memory.begin() + static_cast<std::ptrdiff_t>(address - kBase));
    return {};
  }
  void interrupt(unsigned vector) override { interrupts.push_back(vector); }

  std::array<std::byte, 8192> memory{};
  std::vector<unsigned> interrupts;
};

class TestFunctionTest : public testing::Test {
 protected:
  std::uint64_t read(std::uint64_t offset) { return function_.read(offset, 4); }
  void write(std::uint64_t offset, std::uint64_t value) { function_.write(offset, 4, value); }
  void write_address(std::uint64_t offset, std::uint64_t address) {
    write(offset, address & 0xffff'ffff);
    write(offset + 4, address >> 32);
  }
  // Does `command` on `size` bytes, and gives its status.
  std::uint64_t run(Command command, std::uint32_t size, std::uint64_t source,
                    std::uint64_t destination) {
    write_address(offsetof(Registers, source), source);
    write_address(offsetof(Registers, destination), destination);
    write(offsetof(Registers, size), size);
    write(offsetof(Registers, interrupt_number), 1);
    write(offsetof(Registers, command), command);
    return read(offsetof(Registers, status));
  }

  FakeHost host_;
  TestFunction function_{host_};
};
constexpr std::uint64_t kSource = FakeHost::kBase;
constexpr std::uint64_t kDestination = FakeHost::kBase + 4096;
constexpr std::uint64_t kNowhere = 0x1000;

TEST_F(TestFunctionTest, RegistersKeepWhatIsWritten) {
  write(offsetof(Registers, magic), 0xa0a0a0a0);
  EXPECT_EQ(read(offsetof(Registers, magic)), 0xa0a0a0a0);
  function_.write(1, 1, 0xff);
  EXPECT_EQ(read(0), 0xa0a0ffa0);
  EXPECT_EQ(function_.read(2, 2), 0xa0a0u);
  function_.write(sizeof(Registers), 8, ~0ull);
  EXPECT_EQ(function_.read(sizeof(Registers), 8), 0u) << "nothing is there";
}

TEST_F(TestFunctionTest, ResetForgets) {
  write(offsetof(Registers, magic), 1);
  write(offsetof(Registers, capabilities), 0);
  function_.reset();
  EXPECT_EQ(read(offsetof(Registers, magic)), 0u);
  EXPECT_EQ(read(offsetof(Registers, capabilities)), kUnalignedAccess | kMsix);
}

TEST_F(TestFunctionTest, RaisesInterrupts) {
  write(offsetof(Registers, interrupt_number), 3);
  write(offsetof(Registers, command), kRaiseMsix);
  EXPECT_EQ(host_.interrupts, std::vector<unsigned>{2});
  EXPECT_EQ(read(offsetof(Registers, status)), kInterruptRaised);
  EXPECT_EQ(read(offsetof(Registers, command)), 0u);
}

TEST_F(TestFunctionTest, CommandsThatItDoesNotKnowDoNothing) {
  write(offsetof(Registers, command), 1);
  EXPECT_EQ(read(offsetof(Registers, status)), 0u);
  EXPECT_TRUE(host_.interrupts.empty());
}

TEST_F(TestFunctionTest, Copies) {
  std::ranges::fill(std::span(host_.memory).first(100), std::byte{7});
  EXPECT_EQ(run(kCopy, 99, kSource, kDestination), kCopyDone | kInterruptRaised);
  EXPECT_EQ(host_.memory[4096 + 98], std::byte{7});
  EXPECT_EQ(host_.memory[4096 + 99], std::byte{0});
  EXPECT_EQ(host_.interrupts.size(), 1u);
}

TEST_F(TestFunctionTest, WritesWhatItsChecksumSays) {
  EXPECT_EQ(run(kWrite, 1000, kNowhere, kDestination), kWriteDone | kInterruptRaised);
  EXPECT_EQ(run(kRead, 1000, kDestination, kNowhere), kReadDone | kInterruptRaised);
  host_.memory[4096 + 500] ^= std::byte{1};
  EXPECT_EQ(run(kRead, 1000, kDestination, kNowhere), kReadDone << 1 | kInterruptRaised);
}

TEST_F(TestFunctionTest, ChecksumIsThatOfLinux) {
  // The check value of CRC-32 is that of "123456789", 0xcbf43926, inverted at the end.
  std::ranges::transform(std::string_view("123456789"), host_.memory.begin(),
                         [](char c) { return static_cast<std::byte>(c); });
  write(offsetof(Registers, checksum), ~0xcbf43926u);
  EXPECT_EQ(run(kRead, 9, kSource, kNowhere), kReadDone | kInterruptRaised);
}

TEST_F(TestFunctionTest, SaysWhichAddressIsInvalid) {
  EXPECT_EQ(run(kCopy, 16, kNowhere, kDestination),
            kCopyDone << 1 | kSourceInvalid | kInterruptRaised);
  EXPECT_EQ(run(kCopy, 16, kSource, kNowhere),
            kCopyDone << 1 | kDestinationInvalid | kInterruptRaised);
  EXPECT_EQ(run(kWrite, 16, kSource, kNowhere),
            kWriteDone << 1 | kDestinationInvalid | kInterruptRaised);
}

TEST_F(TestFunctionTest, RefusesWhatIsTooLong) {
  EXPECT_EQ(run(kCopy, 0xffff'ffff, kSource, kDestination), kCopyDone << 1 | kInterruptRaised);
}

}  // namespace
}  // namespace uvfio::endpoint
