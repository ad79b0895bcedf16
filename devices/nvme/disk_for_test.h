// A disk over a file, with a driver on it: the base of the disk's tests.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "devices/nvme/driver_for_test.h"

namespace uvfio::nvme {

class DiskTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kFileSize = 64 << 20;

  explicit DiskTest(testing::FakeAddressSpace::Kind kind = testing::FakeAddressSpace::Kind::shared)
      : port_(32 << 20, kind) {}

  void SetUp() override { start({}); }
  void TearDown() override { disk_.reset(); }

  // A new server, with a controller that the driver has not enabled.
  void start(DiskOptions options) {
    if (options.files.empty()) options.files = {file_.path()};
    driver_.reset();
    disk_.reset();
    auto disk = Disk::create(options);
    ASSERT_TRUE(disk) << disk.error();
    disk_ = std::move(*disk);
    if (options.mappable) port_.make_bar(disk_->description().bars[0].size);
    disk_->connect(port_);
    disk_->reset();
    disk_->bus_master_changed(true);
    driver_.emplace(*disk_, port_, options.mappable);
  }

  // One command for data at `offset` in memory.
  CommandStatus transfer(Driver::Queue& queue, IoOpcode opcode, std::uint64_t first,
                         std::uint32_t blocks, std::uint64_t offset, std::uint32_t nsid = 1,
                         std::uint64_t lba_size = 512) {
    Command command = Driver::io(opcode, first, blocks, nsid);
    driver_->set_prps(command, offset, blocks * lba_size);
    return driver_->status(queue, command);
  }
  CommandStatus flush(Driver::Queue& queue, std::uint32_t nsid = 1) {
    Command command{};
    command.nsid = nsid;
    return driver_->status(queue, command);
  }

  TestFile file_{kFileSize};
  testing::PciPort port_;
  std::unique_ptr<Disk> disk_;
  std::optional<Driver> driver_;
};

}  // namespace uvfio::nvme
