// What was flushed is there after the server has been killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

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

}  // namespace
}  // namespace uvfio::nvme
