// Life and death of a controller: enabling, resets, shutdown, bad memory, interrupts, and shadow
// doorbells.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "devices/nvme/disk_for_test.h"

namespace uvfio::nvme {
namespace {

using pci::InterruptMode;
using testing::PciPort;

class Life : public DiskTest {
 protected:
  // Reads, `count` of 1 MiB, begun and not waited for.
  void begin(Driver::Queue& queue, unsigned count, IoOpcode opcode = IoOpcode::read) {
    if (data_ == 0) data_ = driver_->allocate(256);
    for (unsigned i = 0; i < count; ++i) {
      Command command = Driver::io(opcode, i % 60 * 2048ULL, 2048);
      driver_->set_prps(command, data_, kMaxTransfer);
      driver_->put(queue, command);
    }
    driver_->ring_tail(queue);
  }
  bool fails() { return driver_->wait_status(csts::Cfs::kMask, csts::Cfs::kMask); }
  std::uint64_t data_ = 0;
};

TEST_F(Life, BadQueuesFail) {
  Driver& driver = *driver_;
  const auto attempt = [&](std::uint64_t attributes, std::uint64_t submission,
                           std::uint64_t completion, std::uint64_t configuration) {
    driver.set(RegisterId::aqa, attributes);
    driver.set(RegisterId::asq, submission);
    driver.set(RegisterId::acq, completion);
    driver.set(RegisterId::cc, configuration);
    const bool failed = fails();
    EXPECT_EQ(driver.get(RegisterId::csts) & csts::Rdy::kMask, 0U);
    EXPECT_TRUE(driver.disable());
    EXPECT_TRUE(driver.wait_status(csts::Cfs::kMask, 0));
    return failed;
  };
  const std::uint64_t memory = PciPort::kIova;
  EXPECT_TRUE(attempt(0x1f001f, memory, memory + 4096, Driver::kEnable | cc::Css::put(1)));
  EXPECT_TRUE(attempt(0x1f001f, memory, memory + 4096, Driver::kEnable | cc::Ams::put(1)));
  EXPECT_TRUE(attempt(0x1f001f, memory, memory + 4096, Driver::kEnable | cc::Mps::put(5)));
  EXPECT_TRUE(attempt(0x1f001f, memory, memory + 4096, Driver::kEnable | cc::Mps::put(1)));
  EXPECT_TRUE(attempt(0x1f0000, memory, memory + 4096, Driver::kEnable));
  EXPECT_TRUE(attempt(0x00001f, memory, memory + 4096, Driver::kEnable));
  EXPECT_TRUE(driver.enable());
}

TEST_F(Life, QueuesThatAreNotThereFail) {
  Driver& driver = *driver_;
  driver.set(RegisterId::aqa, 0x1f001f);
  driver.set(RegisterId::asq, 0x1000);
  driver.set(RegisterId::acq, PciPort::kIova);
  driver.set(RegisterId::cc, Driver::kEnable);
  ASSERT_TRUE(driver.wait_status(csts::Rdy::kMask, csts::Rdy::kMask));
  driver.ring(0, 1);
  EXPECT_TRUE(fails());
  ASSERT_TRUE(driver.disable());
  // The other one: a command comes, its completion cannot go.
  driver.set(RegisterId::asq, PciPort::kIova);
  driver.set(RegisterId::acq, 0x1000);
  driver.set(RegisterId::cc, Driver::kEnable);
  ASSERT_TRUE(driver.wait_status(csts::Rdy::kMask, csts::Rdy::kMask));
  driver.ring(0, 1);
  EXPECT_TRUE(fails());
  ASSERT_TRUE(driver.disable());
  EXPECT_TRUE(driver.enable());
}

TEST_F(Life, ControllerResetWithCommandsUnderWay) {
  for (int round = 0; round < 5; ++round) {
    driver_.emplace(*disk_, port_);
    data_ = 0;
    ASSERT_TRUE(driver_->enable());
    Driver::Queue queue = driver_->create_queue(1, 64);
    begin(queue, 60);
    ASSERT_TRUE(driver_->disable());
    EXPECT_EQ(driver_->get(RegisterId::csts), 0U);
    // Nothing comes any more: what was posted stays what it is, and memory can go.
    const std::string before = driver_->text(queue.completions, 1024);
    EXPECT_TRUE(port_.unmap(0, port_.memory().size()));
    EXPECT_TRUE(port_.map(0, port_.memory().size()));
    EXPECT_EQ(driver_->text(queue.completions, 1024), before);
  }
}

TEST_F(Life, FunctionResetHoldsNothing) {
  for (int round = 0; round < 5; ++round) {
    driver_.emplace(*disk_, port_);
    data_ = 0;
    ASSERT_TRUE(driver_->enable());
    Driver::Queue queue = driver_->create_queue(1, 64);
    const Command request = Driver::command(AdminOpcode::async_event_request);
    driver_->put(driver_->admin, request);
    driver_->ring_tail(driver_->admin);
    begin(queue, 60, IoOpcode::write);
    disk_->reset();
    EXPECT_EQ(driver_->get(RegisterId::csts), 0U);
    EXPECT_EQ(driver_->get(RegisterId::cc), 0U);
    EXPECT_EQ(driver_->get(RegisterId::aqa), 0U);
    driver_->ring(0, 1);  // to nobody
  }
}

TEST_F(Life, UnmapWaitsForTransfers) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  begin(queue, 60);
  EXPECT_TRUE(port_.unmap(0, port_.memory().size() / 2));
  // The queues themselves have gone: fatal, but only for this controller.
  driver_->ring(0, 1);
  EXPECT_TRUE(fails());
  EXPECT_TRUE(port_.map(0, port_.memory().size() / 2));
  ASSERT_TRUE(driver_->disable());
  EXPECT_TRUE(driver_->enable());
}

TEST_F(Life, SubsystemReset) {
  ASSERT_TRUE(driver_->enable());
  driver_->set(RegisterId::nssr, kSubsystemResetCode);
  EXPECT_TRUE(driver_->wait_status(csts::Nssro::kMask, csts::Nssro::kMask));
  EXPECT_EQ(driver_->get(RegisterId::cc), 0U);
  driver_->set(RegisterId::csts, csts::Nssro::kMask);
  EXPECT_EQ(driver_->get(RegisterId::csts), 0U);
  EXPECT_TRUE(driver_->enable());
}

TEST_F(Life, Shutdown) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  begin(queue, 30, IoOpcode::write);
  ASSERT_EQ(Driver::status_of(driver_->take(queue)), CommandStatus::success);
  driver_->set(RegisterId::cc, Driver::kEnable | cc::Shn::put(1));
  ASSERT_TRUE(driver_->wait_status(csts::Shst::kMask, csts::Shst::put(csts::kShutdownComplete)));
  ASSERT_TRUE(driver_->disable());
  EXPECT_EQ(driver_->get(RegisterId::csts), 0U);
  ASSERT_TRUE(driver_->enable());
  queue = driver_->create_queue(1, 64);
  EXPECT_EQ(flush(queue), CommandStatus::success);
}

TEST_F(Life, WithoutBusMasterNothingMoves) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  const std::uint64_t data = driver_->allocate(1);
  begin(queue, 20);
  port_.bus_master = false;
  disk_->bus_master_changed(false);
  // What is under way has ended, what has not begun waits.
  const std::string before = driver_->text(queue.completions, 1024);
  Command write = Driver::io(IoOpcode::write, 0, 8);
  driver_->set_prps(write, data, 4096);
  driver_->put(queue, write);
  driver_->ring_tail(queue);
  disk_->bus_master_changed(false);  // the worker has looked
  EXPECT_EQ(driver_->text(queue.completions, 1024), before);
  EXPECT_EQ(driver_->get(RegisterId::csts), csts::Rdy::kMask);
  port_.bus_master = true;
  disk_->bus_master_changed(true);
  unsigned good = 0;
  for (int i = 0; i < 21; ++i)
    good += Driver::status_of(driver_->take(queue)) == CommandStatus::success ? 1 : 0;
  EXPECT_GE(good, 1U);  // those whose data was refused have failed
}

TEST_F(Life, FullCompletionQueue) {
  ASSERT_TRUE(driver_->enable());
  // 64 commands for a completion queue of 4.
  Driver::Queue queue{.id = 1,
                      .entries = 64,
                      .submissions = driver_->allocate(),
                      .completions = driver_->allocate()};
  ASSERT_EQ(driver_->create_completion_queue(1, 4, queue.completions, 1), CommandStatus::success);
  ASSERT_EQ(driver_->create_submission_queue(1, 64, queue.submissions, 1), CommandStatus::success);
  for (int i = 0; i < 50; ++i) {
    Command flush_command{};
    flush_command.nsid = 1;
    driver_->put(queue, flush_command);
  }
  driver_->ring_tail(queue);
  queue.entries = 4;  // from here on, those of the completion queue
  std::vector<bool> seen(1000);
  for (int i = 0; i < 50; ++i) {
    const Completion completion = driver_->take(queue);
    EXPECT_EQ(Driver::status_of(completion), CommandStatus::success);
    EXPECT_FALSE(seen[completion.cid]);
    seen[completion.cid] = true;
  }
}

TEST_F(Life, PinIsHighWhileCompletionsWait) {
  port_.mode = InterruptMode::intx;
  ASSERT_TRUE(driver_->enable());
  Command identify = Driver::command(AdminOpcode::identify);
  identify.cdw10 = 1;
  identify.dptr[0] = Driver::iova(driver_->allocate());
  driver_->put(driver_->admin, identify);
  driver_->ring_tail(driver_->admin);
  EXPECT_TRUE(port_.wait([&] { return port_.pin(); }));
  driver_->set(RegisterId::intms, 1);
  EXPECT_TRUE(port_.wait([&] { return !port_.pin(); }));
  driver_->set(RegisterId::intmc, 1);
  EXPECT_TRUE(port_.wait([&] { return port_.pin(); }));
  driver_->take(driver_->admin);
  EXPECT_TRUE(port_.wait([&] { return !port_.pin(); }));
  // A reset lowers it.
  driver_->put(driver_->admin, identify);
  driver_->ring_tail(driver_->admin);
  EXPECT_TRUE(port_.wait([&] { return port_.pin(); }));
  ASSERT_TRUE(driver_->disable());
  EXPECT_FALSE(port_.pin());
}

TEST_F(Life, MaskHoldsMsiBack) {
  port_.mode = InterruptMode::msi;
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 16);
  driver_->set(RegisterId::intms, 1U << 1);
  // The admin queue shows that the worker has got past the flush.
  driver_->put(queue, Command{.nsid = 1});
  driver_->ring_tail(queue);
  while (!driver_->has_completion(queue)) {
    EXPECT_EQ(driver_->identify(1, 0, driver_->allocate()), CommandStatus::success);
  }
  EXPECT_EQ(driver_->identify(1, 0, driver_->allocate()), CommandStatus::success);
  EXPECT_EQ(port_.raised(1), 0U);
  driver_->set(RegisterId::intmc, 1U << 1);
  EXPECT_TRUE(port_.wait_raised(1, 1));
  EXPECT_EQ(Driver::status_of(driver_->take(queue)), CommandStatus::success);
  EXPECT_EQ(port_.raised(1), 1U);
}

// With shadow doorbells, where a host that leaves completions untaken is reminded of them.
TEST_F(Life, PolledQueueHasNoInterrupts) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue polled = driver_->create_queue(1, 16, false);
  Driver::Queue other = driver_->create_queue(2, 16);
  ASSERT_EQ(driver_->use_shadow_doorbells(), CommandStatus::success);
  polled.shadow = other.shadow = true;
  for (int i = 0; i < 40; ++i) {
    driver_->put(polled, Command{.nsid = 1});
    driver_->ring_tail(polled);
    EXPECT_EQ(flush(other), CommandStatus::success);
    while (!driver_->has_completion(polled)) std::this_thread::yield();
    EXPECT_EQ(Driver::status_of(driver_->take(polled)), CommandStatus::success);
  }
  EXPECT_TRUE(port_.wait_raised(2, 1));
  EXPECT_EQ(port_.raised(1), 0U);
}

TEST_F(Life, CoalescedInterrupts) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  Driver::Queue other = driver_->create_queue(2, 64);
  // Eight completions, or 25 ms.
  driver_->set_feature(FeatureId::interrupt_coalescing, 7 | 250 << 8);
  driver_->set_feature(FeatureId::interrupt_vector_configuration, 1U << 16 | 2);
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < 3; ++i) driver_->put(queue, Command{.nsid = 1});
  driver_->ring_tail(queue);
  EXPECT_TRUE(port_.wait_raised(1, 1));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, std::chrono::milliseconds(25));
  for (int i = 0; i < 3; ++i) driver_->take(queue);
  EXPECT_EQ(port_.raised(1), 1U);
  for (int i = 0; i < 16; ++i) driver_->put(queue, Command{.nsid = 1});
  driver_->ring_tail(queue);
  for (int i = 0; i < 16; ++i) driver_->take(queue);
  EXPECT_LE(port_.raised(1), 3U);
  EXPECT_EQ(flush(other), CommandStatus::success);  // its vector does not wait
  EXPECT_TRUE(port_.wait_raised(2, 1));
}

TEST_F(Life, ShadowDoorbells) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  Command misplaced = Driver::command(AdminOpcode::doorbell_buffer_config);
  misplaced.dptr[0] = Driver::iova(64);
  EXPECT_EQ(driver_->status(driver_->admin, misplaced), CommandStatus::invalid_prp_offset);
  misplaced.dptr[0] = 0x1000;
  misplaced.dptr[1] = 0x2000;
  EXPECT_EQ(driver_->status(driver_->admin, misplaced), CommandStatus::data_transfer_error);
  ASSERT_EQ(driver_->use_shadow_doorbells(), CommandStatus::success);
  queue.shadow = true;
  const std::uint64_t data = driver_->allocate(1);
  const unsigned before = driver_->doorbells_rung();
  constexpr unsigned kCommands = 3000;
  for (unsigned i = 0; i < kCommands; i += 30) {
    for (unsigned j = 0; j < 30; ++j) {
      Command read = Driver::io(IoOpcode::read, j, 1);
      driver_->set_prps(read, data, 512);
      driver_->put(queue, read);
      driver_->ring_tail(queue);
    }
    for (unsigned j = 0; j < 30; ++j)
      ASSERT_EQ(Driver::status_of(driver_->take(queue)), CommandStatus::success);
  }
  // Without the shadow it would be two for each command.
  EXPECT_LT(driver_->doorbells_rung() - before, kCommands);
  ::testing::Test::RecordProperty("doorbells",
                                  static_cast<int>(driver_->doorbells_rung() - before));
}

// A program that is being started may have to be one thread for a while, with disks.
TEST(Threads, ThereIsNoneBeforeTheFirstWriteOfARegister) {
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
  };
  const auto before = threads();
  const TestFile file(1 << 20);
  testing::PciPort port(1 << 20);
  auto disk = Disk::create({.files = {file.path()}});
  ASSERT_TRUE(disk) << disk.error();
  (*disk)->connect(port);
  (*disk)->bus_master_changed(false);
  (*disk)->reset();
  EXPECT_EQ(threads(), before);
  Driver driver(**disk, port);
  EXPECT_TRUE(driver.enable());
  EXPECT_EQ(threads(), before + 1);
}

}  // namespace
}  // namespace uvfio::nvme
