// What was flushed is there after the server has been killed, and after the machine's power was
// cut: when the host is told, the kernel has given it to the disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "devices/nvme/disk_for_test.h"

namespace uvfio::nvme {
namespace {

constexpr std::uint64_t kBlocks = 4096;  // of 4 KiB

// Block i of generation g begins with g; after each flush, which is said to `out`, the next
// generation comes.
[[noreturn]] void serve(const std::string& path, int out) {
  testing::PciPort port(8 << 20);
  auto disk = Disk::create({.files = {path}, .lba_size = 4096});
  if (!disk) _exit(1);
  (*disk)->connect(port);
  (*disk)->reset();
  Driver driver(**disk, port);
  if (!driver.enable()) _exit(1);
  Driver::Queue queue = driver.create_queue(1, 64);
  const std::uint64_t data = driver.allocate(32);
  for (std::uint64_t generation = 1;; ++generation) {
    for (std::uint64_t block = 0; block < 256; block += 32) {
      for (std::uint64_t i = 0; i < 32; ++i) {
        driver.store(data + i * 4096, generation);
        Command write = Driver::io(IoOpcode::write, (block + i) * 16, 1);
        driver.set_prps(write, data + i * 4096, 4096);
        driver.put(queue, write);
      }
      driver.ring_tail(queue);
      for (std::uint64_t i = 0; i < 32; ++i) {
        if (Driver::status_of(driver.take(queue)) != CommandStatus::success) _exit(1);
      }
    }
    if (driver.status(queue, Command{.nsid = 1}) != CommandStatus::success) _exit(1);
    if (write(out, &generation, sizeof generation) != sizeof generation) _exit(1);
  }
}

TEST(Durability, NothingFlushedIsLostByAKill) {
  const TestFile file(kBlocks * 4096);
  for (unsigned round = 1; round <= 5; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      serve(file.path(), ends[1]);
    }
    close(ends[1]);
    // Some flushes, then a kill in the middle of the next generation.
    std::uint64_t flushed = 0;
    for (unsigned i = 0; i < round; ++i)
      ASSERT_EQ(read(ends[0], &flushed, sizeof flushed), ssize_t{sizeof flushed});
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
    while (read(ends[0], &flushed, sizeof flushed) == ssize_t{sizeof flushed}) {
    }
    close(ends[0]);
    for (std::uint64_t block = 0; block < 256; ++block) {
      std::uint64_t generation = 0;
      std::memcpy(&generation, file.read(block * 16 * 4096, 8).data(), 8);
      EXPECT_GE(generation, flushed);
    }
  }
}

// Pages of `path` that the page cache has and the disk not yet: cachestat(2), Linux 6.5. -1: cannot
// be known.
std::int64_t pages_to_be_written(const std::string& path) {
  constexpr long kCachestat = 451;
  struct {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;  // to the end
  } range;
  struct {
    std::uint64_t cached = 0;
    std::uint64_t dirty = 0;
    std::uint64_t in_writeback = 0;
    std::uint64_t evicted = 0;
    std::uint64_t recently_evicted = 0;
  } result;
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (syscall(kCachestat, file.get(), &range, &result, 0) != 0) return -1;
  return static_cast<std::int64_t>(result.dirty + result.in_writeback);
}

class OnTheDisk : public DiskTest {
 protected:
  void SetUp() override {
    start({.lba_size = 4096});
    ASSERT_TRUE(driver_->enable());
    queue_ = driver_->create_queue(1, 64);
    data_ = driver_->allocate(32);
    // A file system in memory has nothing to write; neither has a kernel that we cannot ask.
    if (write({}, 0) != CommandStatus::success) FAIL();
    if (pages_to_be_written(file_.path()) < 1)
      GTEST_SKIP() << "cannot see what is on the disk: no cachestat, or a file system in memory";
  }
  // 32 blocks from `first` on.
  CommandStatus write(const std::function<void(Command&)>& change, std::uint64_t first) {
    driver_->store(data_, ++generation_);
    Command command = Driver::io(IoOpcode::write, first, 32);
    driver_->set_prps(command, data_, 32 * 4096);
    if (change) change(command);
    return driver_->status(queue_, command);
  }

  Driver::Queue queue_;
  std::uint64_t data_ = 0;
  std::uint64_t generation_ = 0;
};

TEST_F(OnTheDisk, AFlushCompletesWhenAllIsWritten) {
  for (std::uint64_t round = 0; round < 20; ++round) {
    for (std::uint64_t i = 0; i < 8; ++i)
      ASSERT_EQ(write({}, (round * 8 + i) * 32), CommandStatus::success);
    ASSERT_EQ(flush(queue_), CommandStatus::success);
    ASSERT_EQ(pages_to_be_written(file_.path()), 0) << "round " << round;
  }
}

TEST_F(OnTheDisk, AWriteWithForceUnitAccessIsWrittenWhenItCompletes) {
  ASSERT_EQ(flush(queue_), CommandStatus::success);
  for (std::uint64_t round = 0; round < 20; ++round) {
    ASSERT_EQ(write([](Command& command) { command.cdw12 |= 1U << 30; }, round * 32),
              CommandStatus::success);
    ASSERT_EQ(pages_to_be_written(file_.path()), 0) << "round " << round;
  }
}

TEST_F(OnTheDisk, WithoutAWriteCacheEachWriteIsWrittenWhenItCompletes) {
  ASSERT_EQ(flush(queue_), CommandStatus::success);
  driver_->set_feature(FeatureId::volatile_write_cache, 0);
  for (std::uint64_t round = 0; round < 20; ++round) {
    ASSERT_EQ(write({}, round * 32), CommandStatus::success);
    ASSERT_EQ(pages_to_be_written(file_.path()), 0) << "round " << round;
  }
}

TEST_F(OnTheDisk, AShutdownCompletesWhenAllIsWritten) {
  ASSERT_EQ(write({}, 0), CommandStatus::success);
  driver_->set(RegisterId::cc, driver_->get(RegisterId::cc) | cc::Shn::put(1));
  ASSERT_TRUE(driver_->wait_status(
      csts::Shst::kMask, static_cast<std::uint32_t>(csts::Shst::put(csts::kShutdownComplete))));
  EXPECT_EQ(pages_to_be_written(file_.path()), 0);
}

}  // namespace
}  // namespace uvfio::nvme
