#include "devices/nvme/mapped_registers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "devices/nvme/disk_for_test.h"

namespace uvfio::nvme {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class MappedRegistersTest : public ::testing::Test {
 protected:
  MappedRegistersTest() {
    mapped_.connect(std::as_writable_bytes(std::span(memory_)), 4);
    mapped_.reset(registers_);
  }
  std::uint32_t& word(std::uint64_t offset) { return memory_[offset / 4]; }
  std::uint32_t& word(RegisterId id) { return word(offset_of(id)); }

  using Writes = std::vector<std::pair<std::uint64_t, std::uint32_t>>;
  Writes look() {
    Writes writes;
    const bool any = mapped_.look([&](std::uint64_t offset, std::uint32_t value) {
      writes.emplace_back(offset, value);
      registers_.write(offset, value);
    });
    EXPECT_EQ(any, !writes.empty());
    return writes;
  }

  RegisterFile registers_;
  std::vector<std::uint32_t> memory_ = std::vector<std::uint32_t>(0x2000 / 4, 0xffffffff);
  MappedRegisters mapped_;
};

TEST_F(MappedRegistersTest, ShowsWhatARegisterReads) {
  EXPECT_EQ(word(RegisterId::vs), kVersion);
  EXPECT_EQ(word(RegisterId::csts), 0U);
  EXPECT_EQ(word(kDoorbells + 12), 0U);
  EXPECT_EQ(word(kDoorbells + 16), 0xffffffffU);  // of no queue
  registers_.set_status(csts::Rdy::kMask);
  mapped_.show(registers_);
  EXPECT_EQ(word(RegisterId::csts), csts::Rdy::kMask);
  EXPECT_THAT(look(), IsEmpty());
}

TEST_F(MappedRegistersTest, TellsWritesInADriversOrder) {
  word(kDoorbells) = 1;
  word(RegisterId::cc) = cc::En::kMask;
  word(RegisterId::aqa) = 0x1f001f;
  word(offset_of(RegisterId::acq) + 4) = 7;
  EXPECT_THAT(look(),
              ElementsAre(Pair(offset_of(RegisterId::aqa), 0x1f001f),
                          Pair(offset_of(RegisterId::acq) + 4, 7),
                          Pair(offset_of(RegisterId::cc), cc::En::kMask), Pair(kDoorbells, 1)));
  EXPECT_THAT(look(), IsEmpty());
}

TEST_F(MappedRegistersTest, WhatCannotBeWrittenComesBack) {
  word(RegisterId::cap) = 0;
  word(RegisterId::csts) = 0xff;
  word(RegisterId::cc) = 0xffffffff;
  look();
  mapped_.show(registers_);
  EXPECT_EQ(word(RegisterId::cap), registers_.read(0));
  EXPECT_EQ(word(RegisterId::csts), 0U);
  EXPECT_EQ(word(RegisterId::cc), registers_.get(RegisterId::cc));
}

TEST_F(MappedRegistersTest, WhatWasNotLookedAtStays) {
  word(RegisterId::cc) = cc::En::kMask;
  registers_.write(offset_of(RegisterId::cc), 0x460000);
  mapped_.show(registers_);
  EXPECT_THAT(look(), ElementsAre(Pair(offset_of(RegisterId::cc), cc::En::kMask)));
}

TEST_F(MappedRegistersTest, TheMaskIsSetAndClearedAgainAndAgain) {
  for (int i = 0; i < 2; ++i) {
    word(RegisterId::intms) = 3;
    look();
    mapped_.show(registers_);
    EXPECT_EQ(registers_.interrupt_mask(), 3U);
    word(RegisterId::intmc) = 3;
    look();
    mapped_.show(registers_);
    EXPECT_EQ(registers_.interrupt_mask(), 0U);
  }
}

TEST_F(MappedRegistersTest, ResetForgetsWhatWasWritten) {
  word(RegisterId::cc) = 1;
  word(kDoorbells + 4) = 9;
  mapped_.reset(registers_);
  EXPECT_THAT(look(), IsEmpty());
  EXPECT_EQ(word(RegisterId::cc), 0U);
  EXPECT_EQ(word(kDoorbells + 4), 0U);
}

// A disk whose driver makes no system calls.
class MappedDisk : public DiskTest {
 protected:
  void SetUp() override {
    start({.mappable = true});
    ASSERT_TRUE(driver_->enable());
    data_ = driver_->allocate(4);
  }
  // Writes and reads block `block` of the disk.
  void use(Driver::Queue& queue, std::uint64_t block) {
    driver_->fill(data_, 512, static_cast<unsigned>(block) + 1);
    ASSERT_EQ(transfer(queue, IoOpcode::write, block, 1, data_), CommandStatus::success);
    ASSERT_EQ(transfer(queue, IoOpcode::read, block, 1, data_ + 4096), CommandStatus::success);
    ASSERT_EQ(driver_->text(data_ + 4096, 512), driver_->text(data_, 512));
  }
  std::uint64_t data_ = 0;
};

TEST_F(MappedDisk, ReadsAndWritesRoundTheQueue) {
  Driver::Queue queue = driver_->create_queue(1, 8);
  for (std::uint64_t block = 0; block < 30; ++block) use(queue, block);
}

TEST_F(MappedDisk, ANewQueueOfAnOldNumberBeginsAtNought) {
  for (int round = 0; round < 3; ++round) {
    Driver::Queue queue = driver_->create_queue(1, 16);
    for (std::uint64_t block = 0; block < 2; ++block) use(queue, block);
    ASSERT_EQ(driver_->delete_queue(AdminOpcode::delete_sq, 1), CommandStatus::success);
    ASSERT_EQ(driver_->delete_queue(AdminOpcode::delete_cq, 1), CommandStatus::success);
  }
}

TEST_F(MappedDisk, LivesThroughResetsAndShutdown) {
  for (int round = 0; round < 3; ++round) {
    Driver::Queue queue = driver_->create_queue(1, 16);
    use(queue, 5);
    if (round == 1) {
      driver_->set(RegisterId::cc, driver_->get(RegisterId::cc) | cc::Shn::put(1));
      ASSERT_TRUE(
          driver_->wait_status(csts::Shst::kMask, csts::Shst::put(csts::kShutdownComplete)));
    }
    ASSERT_TRUE(driver_->disable());
    if (round == 2) {
      disk_->bus_master_changed(false);
      disk_->reset();
      EXPECT_EQ(driver_->get(RegisterId::asq), 0U);
      disk_->bus_master_changed(true);
    }
    ASSERT_TRUE(driver_->enable());
  }
  Driver::Queue queue = driver_->create_queue(1, 16);
  use(queue, 6);
}

TEST_F(MappedDisk, ShadowDoorbells) {
  Driver::Queue queue = driver_->create_queue(1, 8);
  ASSERT_EQ(driver_->use_shadow_doorbells(), CommandStatus::success);
  queue.shadow = true;
  for (std::uint64_t block = 0; block < 30; ++block) use(queue, block);
}

TEST_F(MappedDisk, IsFoundAgainAfterAPause) {
  Driver::Queue queue = driver_->create_queue(1, 8);
  for (const int pause : {1, 30, 100}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(pause));
    use(queue, 1);
  }
}

TEST_F(MappedDisk, TellsOfABadDoorbellOnce) {
  Driver::Queue queue = driver_->create_queue(1, 8);
  driver_->put(driver_->admin, Driver::command(AdminOpcode::async_event_request));
  driver_->put(driver_->admin, Driver::command(AdminOpcode::async_event_request));
  driver_->ring_tail(driver_->admin);
  driver_->ring(2, 99);
  const Completion told = driver_->take(driver_->admin);
  EXPECT_EQ(Driver::status_of(told), CommandStatus::success);
  EXPECT_EQ(told.result & 7, 0U);                                     // an error
  EXPECT_EQ(driver_->identify(1, 0, data_), CommandStatus::success);  // not the second event
  driver_->ring(2, 0);
  use(queue, 1);
}

// Without a mapping the same registers are reached as ever.
TEST_F(MappedDisk, ReadAndWriteGoToTheRegisters) {
  Driver other(*disk_, port_);
  EXPECT_EQ(other.get(RegisterId::cc), driver_->get(RegisterId::cc));
  EXPECT_EQ(other.get(RegisterId::asq), driver_->get(RegisterId::asq));
  ASSERT_TRUE(other.disable());
  ASSERT_TRUE(driver_->wait_status(csts::Rdy::kMask, 0));
}

}  // namespace
}  // namespace uvfio::nvme
