// A driver and a disk, over real DMA and a real file.
#include "devices/nvme/disk.h"

#include <gtest/gtest.h>

#include "devices/nvme/driver_for_test.h"

namespace uvfio::nvme {
namespace {

using testing::FakeAddressSpace;
using testing::PciPort;

class DiskTest : public ::testing::TestWithParam<FakeAddressSpace::Kind> {
 protected:
  static constexpr std::uint64_t kFileSize = 64 << 20;

  void SetUp() override { start({}); }
  void start(DiskOptions options) {
    if (options.files.empty()) options.files = {file_.path()};
    driver_.reset();
    disk_.reset();
    auto disk = Disk::create(options);
    ASSERT_TRUE(disk) << disk.error();
    disk_ = std::move(*disk);
    disk_->connect(port_);
    disk_->reset();
    driver_.emplace(*disk_, port_);
  }
  void TearDown() override { disk_.reset(); }

  TestFile file_{kFileSize};
  PciPort port_{32 << 20, GetParam()};
  std::unique_ptr<Disk> disk_;
  std::optional<Driver> driver_;
};

INSTANTIATE_TEST_SUITE_P(Memory, DiskTest,
                         ::testing::Values(FakeAddressSpace::Kind::shared,
                                           FakeAddressSpace::Kind::private_memory),
                         [](const auto& kind) {
                           return kind.param == FakeAddressSpace::Kind::shared ? "Shared"
                                                                               : "Private";
                         });

TEST_P(DiskTest, WritesAndReadsBack) {
  ASSERT_TRUE(driver_->enable());
  Driver::Queue queue = driver_->create_queue(1, 64);
  const std::uint64_t from = driver_->allocate(64);
  const std::uint64_t to = driver_->allocate(64);
  // Sizes that need one pointer, two, and a list; also from the middle of a page.
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, 512},
                                     {0, 4096},
                                     {512, 4096},
                                     {0, 8192},
                                     {1024, 131072},
                                     {0, 262144 - 4096}}) {
    SCOPED_TRACE(size);
    driver_->fill(from + offset, size, static_cast<unsigned>(size));
    std::ranges::fill(driver_->at(to, 64 * 4096), std::byte{0xee});
    Command write = Driver::io(IoOpcode::write, 1000, static_cast<std::uint32_t>(size / 512));
    driver_->set_prps(write, from + offset, size);
    EXPECT_EQ(driver_->status(queue, write), CommandStatus::success);
    EXPECT_EQ(file_.read(1000 * 512, size), driver_->text(from + offset, size));
    Command read = Driver::io(IoOpcode::read, 1000, static_cast<std::uint32_t>(size / 512));
    driver_->set_prps(read, to + offset, size);
    EXPECT_EQ(driver_->status(queue, read), CommandStatus::success);
    EXPECT_EQ(driver_->text(to + offset, size), driver_->text(from + offset, size));
    EXPECT_EQ(driver_->at(to + offset + size, 1)[0], std::byte{0xee});
  }
  EXPECT_EQ(port_.raised(1), 12U);
}

}  // namespace
}  // namespace uvfio::nvme
