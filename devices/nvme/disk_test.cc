// Reading and writing, by a driver over real DMA and a real file.
#include "devices/nvme/disk.h"

#include <gtest/gtest.h>

#include <map>

#include "devices/nvme/disk_for_test.h"

namespace uvfio::nvme {
namespace {

using testing::FakeAddressSpace;

class DiskIo : public DiskTest, public ::testing::WithParamInterface<FakeAddressSpace::Kind> {
 protected:
  DiskIo() : DiskTest(GetParam()) {}
  void SetUp() override {
    DiskTest::SetUp();
    ASSERT_TRUE(driver_->enable());
    queue_ = driver_->create_queue(1, 64);
    from_ = driver_->allocate(300);
    to_ = driver_->allocate(300);
  }
  Driver::Queue queue_;
  std::uint64_t from_ = 0;
  std::uint64_t to_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Memory, DiskIo,
                         ::testing::Values(FakeAddressSpace::Kind::shared,
                                           FakeAddressSpace::Kind::private_memory),
                         [](const auto& kind) {
                           return kind.param == FakeAddressSpace::Kind::shared ? "Shared"
                                                                               : "Private";
                         });

TEST_P(DiskIo, WritesAndReadsBack) {
  // Sizes that need one pointer, two, and lists; also from the middle of a page.
  unsigned commands = 0;
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, 512},
                                     {0, 4096},
                                     {512, 4096},
                                     {0, 8192},
                                     {1024, 131072},
                                     {0, kMaxTransfer}}) {
    SCOPED_TRACE(size);
    const auto blocks = static_cast<std::uint32_t>(size / 512);
    driver_->fill(from_ + offset, size, blocks);
    std::ranges::fill(driver_->at(to_, 300 * 4096), std::byte{0xee});
    EXPECT_EQ(transfer(queue_, IoOpcode::write, 1000, blocks, from_ + offset),
              CommandStatus::success);
    EXPECT_EQ(file_.read(1000 * 512, size), driver_->text(from_ + offset, size));
    EXPECT_EQ(transfer(queue_, IoOpcode::read, 1000, blocks, to_ + offset), CommandStatus::success);
    EXPECT_EQ(driver_->text(to_ + offset, size), driver_->text(from_ + offset, size));
    EXPECT_EQ(driver_->at(to_ + offset + size, 1)[0], std::byte{0xee});
    commands += 2;
  }
  EXPECT_TRUE(port_.wait_raised(1, commands));
  EXPECT_EQ(port_.raised(1), commands);
}

TEST_P(DiskIo, ScatteredPages) {
  // Every other page, backwards; 1024 of them would not fit, but these do.
  std::vector<std::uint64_t> pages;
  for (unsigned i = 0; i < 128; ++i) pages.push_back(Driver::iova(from_ + (255 - 2 * i) * 4096));
  driver_->fill(from_, 256 * 4096, 5);
  Command write = Driver::io(IoOpcode::write, 8, 1024);
  driver_->set_prps(write, pages);
  EXPECT_EQ(driver_->status(queue_, write), CommandStatus::success);
  for (unsigned i = 0; i < 128; ++i) {
    EXPECT_EQ(file_.read(8 * 512 + i * 4096ULL, 4096),
              driver_->text(from_ + (255 - 2 * i) * 4096, 4096));
  }
}

TEST_P(DiskIo, SglOfManySmallPieces) {
  // More pieces than one readv takes.
  constexpr unsigned kPieces = 2048;
  const std::uint64_t list = driver_->allocate(kPieces * 16 / 4096);
  driver_->fill(from_, 256 * 4096, 6);
  for (unsigned i = 0; i < kPieces; ++i) {
    driver_->store(
        list + i * 16,
        SglDescriptor{.address = Driver::iova(from_ + i * 512ULL + 3), .length = 256, .id = 0});
  }
  Command write = Driver::io(IoOpcode::write, 0, kPieces / 2);
  write.flags = 0x40;
  const SglDescriptor first{.address = Driver::iova(list), .length = kPieces * 16, .id = 0x30};
  std::memcpy(write.dptr, &first, sizeof first);
  EXPECT_EQ(driver_->status(queue_, write), CommandStatus::success);
  std::string expected;
  for (unsigned i = 0; i < kPieces; ++i) expected += driver_->text(from_ + i * 512ULL + 3, 256);
  EXPECT_EQ(file_.read(0, expected.size()), expected);
}

TEST_P(DiskIo, ManyAtOnceOnSeveralQueues) {
  std::vector<Driver::Queue> queues{queue_};
  for (std::uint16_t id = 2; id <= 4; ++id) queues.push_back(driver_->create_queue(id, 16));
  driver_->fill(from_, 256 * 4096, 7);
  // Rounds that wrap the queues, 15 commands each.
  for (unsigned round = 0; round < 20; ++round) {
    for (Driver::Queue& queue : queues) {
      for (unsigned i = 0; i < 15; ++i) {
        const std::uint64_t block = (queue.id * 15ULL + i + round) % 256;
        Command write = Driver::io(IoOpcode::write, block * 8, 8);
        driver_->set_prps(write, from_ + block * 4096, 4096);
        driver_->put(queue, write);
      }
      driver_->ring_tail(queue);
    }
    for (Driver::Queue& queue : queues) {
      for (unsigned i = 0; i < 15; ++i)
        EXPECT_EQ(Driver::status_of(driver_->take(queue)), CommandStatus::success);
    }
  }
  for (unsigned block = 15; block < 94; ++block)
    EXPECT_EQ(file_.read(block * 4096ULL, 4096), driver_->text(from_ + block * 4096ULL, 4096));
  // Completions came together.
  EXPECT_LT(port_.raised(1), 20U * 15);
}

TEST_P(DiskIo, WriteZeroesAndDeallocate) {
  driver_->fill(from_, 64 * 4096, 8);
  ASSERT_EQ(transfer(queue_, IoOpcode::write, 0, 512, from_), CommandStatus::success);
  const Command zeroes = Driver::io(IoOpcode::write_zeroes, 3, 21);
  EXPECT_EQ(driver_->status(queue_, zeroes), CommandStatus::success);
  EXPECT_EQ(file_.read(3 * 512, 21 * 512), std::string(21 * 512, '\0'));
  EXPECT_EQ(file_.read(0, 3 * 512), driver_->text(from_, 3 * 512));
  EXPECT_EQ(file_.read(24 * 512, 512), driver_->text(from_ + 24 * 512, 512));
  Command durable = Driver::io(IoOpcode::write_zeroes, 24, 8);
  durable.cdw12 |= 1U << 30;
  EXPECT_EQ(driver_->status(queue_, durable), CommandStatus::success);
  EXPECT_EQ(file_.read(24 * 512, 8 * 512), std::string(8 * 512, '\0'));

  const std::uint64_t ranges = driver_->allocate();
  driver_->store(ranges, std::array{DatasetRange{.blocks = 8, .first = 64},
                                    DatasetRange{.blocks = 0, .first = 0},
                                    DatasetRange{.blocks = 16, .first = 128}});
  Command dataset = Driver::command(AdminOpcode{});
  dataset.opcode = static_cast<std::uint8_t>(IoOpcode::dataset_management);
  dataset.nsid = 1;
  dataset.dptr[0] = Driver::iova(ranges);
  dataset.cdw10 = 2;
  EXPECT_EQ(driver_->status(queue_, dataset), CommandStatus::success);  // hints only
  EXPECT_EQ(file_.read(64 * 512, 4096), driver_->text(from_ + 64 * 512, 4096));
  dataset.cdw11 = 4;
  EXPECT_EQ(driver_->status(queue_, dataset), CommandStatus::success);
  EXPECT_EQ(file_.read(64 * 512, 4096), std::string(4096, '\0'));
  EXPECT_EQ(file_.read(128 * 512, 8192), std::string(8192, '\0'));
  EXPECT_EQ(file_.read(72 * 512, 4096), driver_->text(from_ + 72 * 512, 4096));
  driver_->store(ranges, DatasetRange{.blocks = 1, .first = kFileSize / 512});
  EXPECT_EQ(driver_->status(queue_, dataset), CommandStatus::lba_out_of_range);
}

TEST_P(DiskIo, CompareAndVerify) {
  driver_->fill(from_, 8192, 9);
  ASSERT_EQ(transfer(queue_, IoOpcode::write, 100, 16, from_), CommandStatus::success);
  EXPECT_EQ(transfer(queue_, IoOpcode::compare, 100, 16, from_), CommandStatus::success);
  driver_->at(from_ + 8191, 1)[0] ^= std::byte{1};
  EXPECT_EQ(transfer(queue_, IoOpcode::compare, 100, 16, from_), CommandStatus::compare_failure);
  EXPECT_EQ(driver_->status(queue_, Driver::io(IoOpcode::verify, 0, 65536)),
            CommandStatus::success);
}

TEST_P(DiskIo, FlushAndForceUnitAccess) {
  EXPECT_EQ(flush(queue_), CommandStatus::success);
  EXPECT_EQ(flush(queue_, kAllNamespaces), CommandStatus::success);
  EXPECT_EQ(flush(queue_, 2), CommandStatus::invalid_namespace);
  driver_->fill(from_, 4096, 10);
  Command write = Driver::io(IoOpcode::write, 0, 8);
  write.cdw12 |= 1U << 30;
  driver_->set_prps(write, from_, 4096);
  EXPECT_EQ(driver_->status(queue_, write), CommandStatus::success);
  EXPECT_EQ(file_.read(0, 4096), driver_->text(from_, 4096));
  // Without a volatile cache every write is durable.
  EXPECT_EQ(Driver::status_of(driver_->set_feature(FeatureId::volatile_write_cache, 0)),
            CommandStatus::success);
  EXPECT_EQ(transfer(queue_, IoOpcode::write, 0, 8, from_), CommandStatus::success);
}

TEST_P(DiskIo, BadCommands) {
  const std::uint64_t blocks = kFileSize / 512;
  EXPECT_EQ(transfer(queue_, IoOpcode::read, blocks - 1, 1, to_), CommandStatus::success);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, blocks - 1, 2, to_), CommandStatus::lba_out_of_range);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, ~0ULL, 1, to_), CommandStatus::lba_out_of_range);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, 0, 1, to_, 0), CommandStatus::invalid_namespace);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, 0, 1, to_, kAllNamespaces),
            CommandStatus::invalid_namespace);
  Command command = Driver::io(IoOpcode::read, 0, 2049);
  command.dptr[0] = Driver::iova(to_);
  EXPECT_EQ(driver_->status(queue_, command), CommandStatus::invalid_field);  // MDTS
  command = Driver::io(IoOpcode::read, 0, 1);
  command.dptr[0] = 0x1000;  // not mapped
  EXPECT_EQ(driver_->status(queue_, command), CommandStatus::data_transfer_error);
  command.dptr[0] = testing::PciPort::kIova + port_.memory().size() - 512;
  command.cdw12 = 1;
  command.dptr[1] = testing::PciPort::kIova + port_.memory().size();  // the second page is not
  EXPECT_EQ(driver_->status(queue_, command), CommandStatus::data_transfer_error);
  command.flags = 1;  // fused
  EXPECT_EQ(driver_->status(queue_, command), CommandStatus::invalid_field);
  command = Driver::io(IoOpcode{0x7f}, 0, 1);
  const Completion completion = driver_->run(queue_, command);
  EXPECT_EQ(Driver::status_of(completion), CommandStatus::invalid_opcode);
  EXPECT_NE(completion.status & 0x8000, 0);  // do not retry
  // The error page has them, the newest first.
  const std::uint64_t page = driver_->allocate();
  ASSERT_EQ(driver_->get_log(LogPage::errors, page, 4096), CommandStatus::success);
  const auto entry = driver_->load<ErrorEntry>(page);
  EXPECT_EQ(entry.count, 9U);
  EXPECT_EQ(entry.cid, completion.cid);
  EXPECT_EQ(entry.sq_id, 1);
}

TEST_P(DiskIo, ShrunkenFileIsAnError) {
  ASSERT_EQ(truncate(file_.path().c_str(), 1 << 20), 0);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, 4000, 8, to_), CommandStatus::unrecovered_read_error);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, 2040, 16, to_), CommandStatus::unrecovered_read_error);
  EXPECT_EQ(transfer(queue_, IoOpcode::read, 2040, 8, to_), CommandStatus::success);
}

// A random walk, checked against a model of the disk.
TEST_P(DiskIo, RandomCommands) {
  constexpr std::uint64_t kBlocks = 2048;
  std::vector<std::uint64_t> disk(kBlocks, 0);  // the first word of each block
  unsigned seed = 1;
  const auto random = [&](unsigned below) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % below;
  };
  for (unsigned step = 1; step <= 1500; ++step) {
    const std::uint32_t count = 1 + random(100);
    const std::uint64_t first = random(static_cast<unsigned>(kBlocks - count));
    const std::uint64_t offset = random(8) * 512;
    switch (random(4)) {
      case 0:
        ASSERT_EQ(driver_->status(queue_, Driver::io(IoOpcode::write_zeroes, first, count)),
                  CommandStatus::success);
        std::fill_n(disk.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
        break;
      case 1:
      case 2:
        for (std::uint32_t i = 0; i < count; ++i) {
          disk[first + i] = step * 1000ULL + i;
          driver_->store(from_ + offset + i * 512ULL, disk[first + i]);
        }
        ASSERT_EQ(transfer(queue_, IoOpcode::write, first, count, from_ + offset),
                  CommandStatus::success);
        break;
      default:
        ASSERT_EQ(transfer(queue_, IoOpcode::read, first, count, to_ + offset),
                  CommandStatus::success);
        for (std::uint32_t i = 0; i < count; ++i)
          ASSERT_EQ(driver_->load<std::uint64_t>(to_ + offset + i * 512ULL), disk[first + i]);
    }
  }
}

}  // namespace
}  // namespace uvfio::nvme
