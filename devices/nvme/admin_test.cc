// The admin commands, as a driver and nvme-cli give them.
#include <gtest/gtest.h>

#include <algorithm>

#include "devices/nvme/disk_for_test.h"

namespace uvfio::nvme {
namespace {

class Admin : public DiskTest {
 protected:
  void SetUp() override {
    DiskTest::SetUp();
    ASSERT_TRUE(driver_->enable());
    page_ = driver_->allocate(2);
  }
  std::string trimmed(std::uint64_t offset, std::size_t size) {
    std::string text = driver_->text(page_ + offset, size);
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  }
  Command format(unsigned index, std::uint32_t nsid = 1) {
    Command command = Driver::command(AdminOpcode::format_nvm);
    command.nsid = nsid;
    command.cdw10 = index;
    return command;
  }
  std::uint64_t page_ = 0;
};

TEST_F(Admin, IdentifyController) {
  start({.serial = "S1"});
  ASSERT_TRUE(driver_->enable());
  ASSERT_EQ(driver_->identify(1, 0, page_), CommandStatus::success);
  EXPECT_EQ(trimmed(4, 20), "S1");
  EXPECT_EQ(trimmed(24, 40), "uvfio NVMe disk");
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 77), 8);             // MDTS
  EXPECT_EQ(driver_->load<std::uint32_t>(page_ + 80), 0x00010400U);  // VER
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 111), 1);            // CNTRLTYPE
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 512), 0x66);         // SQES
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 513), 0x44);         // CQES
  EXPECT_EQ(driver_->load<std::uint32_t>(page_ + 516), 1U);          // NN
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 525) & 1, 1);        // VWC
  EXPECT_EQ(driver_->text(page_ + 768, 4), "nqn.");
}

TEST_F(Admin, IdentifyNamespaces) {
  const TestFile second(8 << 20);
  start({.files = {file_.path(), second.path()}, .lba_size = 4096});
  ASSERT_TRUE(driver_->enable());
  ASSERT_EQ(driver_->identify(2, 0, page_), CommandStatus::success);
  EXPECT_EQ((driver_->load<std::array<std::uint32_t, 3>>(page_)),
            (std::array<std::uint32_t, 3>{1, 2, 0}));
  ASSERT_EQ(driver_->identify(2, 1, page_), CommandStatus::success);
  EXPECT_EQ((driver_->load<std::array<std::uint32_t, 2>>(page_)),
            (std::array<std::uint32_t, 2>{2, 0}));
  EXPECT_EQ(driver_->identify(2, 0xffffffff, page_), CommandStatus::invalid_namespace);
  ASSERT_EQ(driver_->identify(0, 2, page_), CommandStatus::success);
  EXPECT_EQ(driver_->load<std::uint64_t>(page_), 2048U);
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 26), 1);  // FLBAS
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 130), 9);
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 134), 12);
  EXPECT_EQ(driver_->identify(0, 3, page_), CommandStatus::invalid_namespace);
  EXPECT_EQ(driver_->identify(0, 0xffffffff, page_), CommandStatus::success);
  ASSERT_EQ(driver_->identify(3, 1, page_), CommandStatus::success);
  EXPECT_EQ(driver_->load<std::uint16_t>(page_), 0x1003);  // a UUID of 16 bytes
  const std::string uuid = driver_->text(page_ + 4, 16);
  ASSERT_EQ(driver_->identify(3, 2, page_), CommandStatus::success);
  EXPECT_NE(driver_->text(page_ + 4, 16), uuid);
  EXPECT_EQ(driver_->identify(0x1c, 0, page_), CommandStatus::invalid_field);

  // Both are disks of their own.
  Driver::Queue queue = driver_->create_queue(1, 16);
  driver_->fill(page_, 4096, 1);
  ASSERT_EQ(transfer(queue, IoOpcode::write, 3, 1, page_, 2, 4096), CommandStatus::success);
  EXPECT_EQ(second.read(3 * 4096, 4096), driver_->text(page_, 4096));
  EXPECT_EQ(file_.read(3 * 4096, 4096), std::string(4096, '\0'));
  EXPECT_EQ(flush(queue, kAllNamespaces), CommandStatus::success);
}

TEST_F(Admin, CreatesAndDeletesQueues) {
  const std::uint64_t memory = driver_->allocate(2);
  Driver& driver = *driver_;
  EXPECT_EQ(driver.create_completion_queue(0, 16, memory, 1), CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.create_completion_queue(17, 16, memory, 1), CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.create_completion_queue(1, 1, memory, 1), CommandStatus::invalid_queue_size);
  EXPECT_EQ(driver.create_completion_queue(1, 4097, memory, 1), CommandStatus::invalid_queue_size);
  EXPECT_EQ(driver.create_completion_queue(1, 16, memory + 64, 1),
            CommandStatus::invalid_prp_offset);
  EXPECT_EQ(driver.create_completion_queue(1, 16, memory, 17),
            CommandStatus::invalid_interrupt_vector);
  Command scattered = Driver::command(AdminOpcode::create_cq);
  scattered.dptr[0] = Driver::iova(memory);
  scattered.cdw10 = 1 | 15 << 16;
  EXPECT_EQ(driver.status(driver.admin, scattered), CommandStatus::invalid_field);

  EXPECT_EQ(driver.create_submission_queue(1, 16, memory + 4096, 1),
            CommandStatus::completion_queue_invalid);
  EXPECT_EQ(driver.create_submission_queue(1, 16, memory + 4096, 0),
            CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.create_completion_queue(1, 16, memory, 1), CommandStatus::success);
  EXPECT_EQ(driver.create_completion_queue(1, 16, memory, 1), CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.create_submission_queue(1, 16, memory + 4096, 1), CommandStatus::success);
  EXPECT_EQ(driver.create_submission_queue(1, 16, memory + 4096, 1),
            CommandStatus::invalid_queue_id);

  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_cq, 1), CommandStatus::invalid_queue_deletion);
  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_sq, 0), CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_sq, 2), CommandStatus::invalid_queue_id);
  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_sq, 1), CommandStatus::success);
  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_cq, 1), CommandStatus::success);
  EXPECT_EQ(driver.delete_queue(AdminOpcode::delete_cq, 1), CommandStatus::invalid_queue_id);
}

TEST_F(Admin, DeletionCompletesAfterTheQueuesCommands) {
  Driver::Queue queue = driver_->create_queue(1, 64);
  const std::uint64_t data = driver_->allocate(256);
  for (int i = 0; i < 40; ++i) {
    Command write = Driver::io(IoOpcode::write, static_cast<std::uint64_t>(i) * 2048, 2048);
    driver_->set_prps(write, data, kMaxTransfer);
    driver_->put(queue, write);
  }
  driver_->ring_tail(queue);
  // The first command has been taken, so the rest, too, with the burst.
  ASSERT_EQ(Driver::status_of(driver_->take(queue)), CommandStatus::success);
  ASSERT_EQ(driver_->delete_queue(AdminOpcode::delete_sq, 1), CommandStatus::success);
  // Those that were taken have all completed before; none does after.
  const auto posted = [&] {
    unsigned count = 0;
    for (unsigned i = 0; i < 64; ++i)
      count += driver_->load<Completion>(queue.completions + i * 16).status & 1;
    return count;
  };
  const unsigned before = posted();
  EXPECT_EQ(driver_->delete_queue(AdminOpcode::delete_cq, 1), CommandStatus::success);
  EXPECT_EQ(posted(), before);
}

TEST_F(Admin, Features) {
  Driver& driver = *driver_;
  EXPECT_EQ(driver.set_feature(FeatureId::number_of_queues, 3 | 3 << 16).result, 15U | 15U << 16);
  EXPECT_EQ(Driver::status_of(driver.set_feature(FeatureId::number_of_queues, 0xffff)),
            CommandStatus::invalid_field);
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache).result, 1U);
  driver.set_feature(FeatureId::volatile_write_cache, 0);
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache).result, 0U);
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache, 0, 1).result, 1U);  // default
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache, 0, 2).result, 1U);  // saved
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache, 0, 3).result, 4U);  // changeable
  driver.set_feature(FeatureId::interrupt_coalescing, 0x0103);
  EXPECT_EQ(driver.get_feature(FeatureId::interrupt_coalescing).result, 0x0103U);
  driver.set_feature(FeatureId::interrupt_vector_configuration, 0x10002);
  EXPECT_EQ(driver.get_feature(FeatureId::interrupt_vector_configuration, 2).result, 0x10002U);
  EXPECT_EQ(driver.get_feature(FeatureId::interrupt_vector_configuration, 3).result, 3U);
  EXPECT_EQ(Driver::status_of(driver.get_feature(FeatureId::interrupt_vector_configuration, 17)),
            CommandStatus::invalid_field);
  driver.set_feature(FeatureId::arbitration, 2);
  EXPECT_EQ(driver.get_feature(FeatureId::arbitration).result, 2U);
  EXPECT_EQ(driver.get_feature(FeatureId::temperature_threshold).result, kWarningTemperature);
  EXPECT_EQ(Driver::status_of(driver.set_feature(FeatureId::power_management, 1)),
            CommandStatus::invalid_field);
  EXPECT_EQ(Driver::status_of(driver.get_feature(FeatureId{0x0f})), CommandStatus::invalid_field);
  Command save = Driver::command(AdminOpcode::set_features);
  save.cdw10 = 1U << 31 | static_cast<std::uint32_t>(FeatureId::volatile_write_cache);
  EXPECT_EQ(driver.status(driver.admin, save), CommandStatus::feature_not_saveable);
  driver.create_queue(1, 16);
  EXPECT_EQ(Driver::status_of(driver.set_feature(FeatureId::number_of_queues, 1)),
            CommandStatus::command_sequence_error);
  // A reset forgets.
  ASSERT_TRUE(driver.disable());
  ASSERT_TRUE(driver.enable());
  EXPECT_EQ(driver.get_feature(FeatureId::volatile_write_cache).result, 1U);
}

TEST_F(Admin, LogPages) {
  Driver& driver = *driver_;
  Driver::Queue queue = driver.create_queue(1, 16);
  ASSERT_EQ(transfer(queue, IoOpcode::write, 0, 8, page_), CommandStatus::success);
  ASSERT_EQ(driver.get_log(LogPage::health, page_, 512), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint8_t>(page_), 0);
  EXPECT_EQ(driver.load<std::uint16_t>(page_ + 1), kTemperature);
  EXPECT_EQ(driver.load<std::uint64_t>(page_ + 48), 1U);  // data units written, rounded up
  EXPECT_EQ(driver.load<std::uint64_t>(page_ + 80), 1U);  // writes
  ASSERT_EQ(driver.get_log(LogPage::firmware_slots, page_, 512), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint8_t>(page_), 1);
  EXPECT_EQ(trimmed(8, 8), kFirmwareRevision);
  ASSERT_EQ(driver.get_log(LogPage::effects, page_, 4096), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint32_t>(page_ + 4 * 0x06), 1U);         // Identify
  EXPECT_EQ(driver.load<std::uint32_t>(page_ + 1024 + 4 * 0x01), 3U);  // Write
  EXPECT_EQ(driver.load<std::uint32_t>(page_ + 1024 + 4 * 0x04), 0U);
  EXPECT_EQ(driver.get_log(LogPage{0x7f}, page_, 512), CommandStatus::invalid_log_page);
  // From the middle, and beyond the end.
  Command part = Driver::command(AdminOpcode::get_log_page);
  part.dptr[0] = Driver::iova(page_);
  part.cdw10 = static_cast<std::uint32_t>(LogPage::effects) | 1U << 16;
  part.cdw12 = 1024 + 4;
  EXPECT_EQ(driver.status(driver.admin, part), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint32_t>(page_), 3U);
  part.cdw12 = 4096;
  EXPECT_EQ(driver.status(driver.admin, part), CommandStatus::invalid_field);
  part.cdw12 = 2;
  EXPECT_EQ(driver.status(driver.admin, part), CommandStatus::invalid_field);
}

TEST_F(Admin, EventsAreToldOnceUntilThePageIsRead) {
  Driver& driver = *driver_;
  const Command request = Driver::command(AdminOpcode::async_event_request);
  std::vector<std::uint16_t> ids;
  for (unsigned i = 0; i < kEventRequestLimit; ++i)
    ids.push_back(driver.put(driver.admin, request));
  EXPECT_EQ(driver.status(driver.admin, request), CommandStatus::event_request_limit_exceeded);

  driver.ring(2 * 5, 1);  // no such queue
  Completion event = driver.take(driver.admin);
  EXPECT_EQ(event.cid, ids[0]);
  EXPECT_EQ(event.result, 0x010000U);
  driver.create_queue(1, 16);
  driver.ring(2, 99);  // beyond the queue
  // Of the same type: silent until the page has been read; the admin queue works on.
  EXPECT_EQ(driver.identify(1, 0, page_), CommandStatus::success);
  EXPECT_EQ(driver.get_log(LogPage::errors, page_, 64, true), CommandStatus::success);
  // The reading command completes after the event that it lets out.
  Command read = Driver::command(AdminOpcode::get_log_page);
  read.dptr[0] = Driver::iova(page_);
  read.cdw10 = 1 | 15 << 16;
  driver.put(driver.admin, read);
  driver.ring_tail(driver.admin);
  event = driver.take(driver.admin);
  EXPECT_EQ(event.cid, ids[1]);
  EXPECT_EQ(event.result, 0x010100U);
  EXPECT_EQ(Driver::status_of(driver.take(driver.admin)), CommandStatus::success);

  // A threshold below the temperature, once the event is on.
  driver.set_feature(FeatureId::async_event_configuration, kEventOverTemperature);
  const std::uint16_t set = [&] {
    Command threshold = Driver::command(AdminOpcode::set_features);
    threshold.cdw10 = static_cast<std::uint32_t>(FeatureId::temperature_threshold);
    threshold.cdw11 = kTemperature - 10;
    const std::uint16_t id = driver.put(driver.admin, threshold);
    driver.ring_tail(driver.admin);
    return id;
  }();
  event = driver.take(driver.admin);
  EXPECT_EQ(event.cid, ids[2]);
  EXPECT_EQ(event.result, 0x020101U);
  EXPECT_EQ(driver.take(driver.admin).cid, set);
  ASSERT_EQ(driver.get_log(LogPage::health, page_, 512), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint8_t>(page_), 2);

  // The last request is taken back.
  Command abort = Driver::command(AdminOpcode::abort);
  abort.cdw10 = std::uint32_t{ids[3]} << 16;
  driver.put(driver.admin, abort);
  driver.ring_tail(driver.admin);
  const Completion aborted = driver.take(driver.admin);
  EXPECT_EQ(aborted.cid, ids[3]);
  EXPECT_EQ(Driver::status_of(aborted), CommandStatus::abort_requested);
  EXPECT_EQ(driver.take(driver.admin).result, 0U);
  EXPECT_EQ(driver.run(driver.admin, abort).result, 1U);  // no longer there
}

TEST_F(Admin, FormatChangesTheBlocks) {
  Driver& driver = *driver_;
  Driver::Queue queue = driver.create_queue(1, 16);
  driver.fill(page_, 4096, 3);
  ASSERT_EQ(transfer(queue, IoOpcode::write, 8, 8, page_), CommandStatus::success);
  driver.set_feature(FeatureId::async_event_configuration, kEventNamespaceAttributes);
  const std::uint16_t event_id =
      driver.put(driver.admin, Driver::command(AdminOpcode::async_event_request));
  driver.ring_tail(driver.admin);

  EXPECT_EQ(driver.status(driver.admin, format(2)), CommandStatus::invalid_format);
  EXPECT_EQ(driver.status(driver.admin, format(1 | 1 << 5)), CommandStatus::invalid_format);
  EXPECT_EQ(driver.status(driver.admin, format(1, 2)), CommandStatus::invalid_namespace);
  EXPECT_EQ(driver.status(driver.admin, format(1 | 2 << 9)), CommandStatus::invalid_field);
  EXPECT_EQ(file_.read(4096, 4096), driver.text(page_, 4096));

  driver.put(driver.admin, format(1));
  driver.ring_tail(driver.admin);
  const Completion event = driver.take(driver.admin);
  EXPECT_EQ(event.cid, event_id);
  EXPECT_EQ(event.result, 0x040002U);
  EXPECT_EQ(Driver::status_of(driver.take(driver.admin)), CommandStatus::success);
  ASSERT_EQ(driver.get_log(LogPage::changed_namespaces, page_, 4096), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint32_t>(page_), 1U);
  ASSERT_EQ(driver.get_log(LogPage::changed_namespaces, page_, 4096), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint32_t>(page_), 0U);

  ASSERT_EQ(driver.identify(0, 1, page_), CommandStatus::success);
  EXPECT_EQ(driver.load<std::uint64_t>(page_), kFileSize / 4096);
  EXPECT_EQ(driver.load<std::uint8_t>(page_ + 26), 1);
  EXPECT_EQ(file_.read(0, 65536), std::string(65536, '\0'));
  EXPECT_EQ(transfer(queue, IoOpcode::read, kFileSize / 4096 - 1, 1, page_, 1, 4096),
            CommandStatus::success);
  EXPECT_EQ(transfer(queue, IoOpcode::read, kFileSize / 4096, 1, page_, 1, 4096),
            CommandStatus::lba_out_of_range);

  // The disk remembers, unless told otherwise.
  start({});
  ASSERT_TRUE(driver_->enable());
  ASSERT_EQ(driver_->identify(0, 1, page_), CommandStatus::success);
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 26), 1);
  start({.lba_size = 512});
  ASSERT_TRUE(driver_->enable());
  ASSERT_EQ(driver_->identify(0, 1, page_), CommandStatus::success);
  EXPECT_EQ(driver_->load<std::uint8_t>(page_ + 26), 0);
}

TEST_F(Admin, FormatWaitsForCommandsUnderWay) {
  Driver::Queue queue = driver_->create_queue(1, 64);
  const std::uint64_t data = driver_->allocate(256);
  std::ranges::fill(driver_->at(data, kMaxTransfer), std::byte{0xaa});
  for (unsigned i = 0; i < 30; ++i) {
    Command write = Driver::io(IoOpcode::write, i * 2048ULL, 2048);
    driver_->set_prps(write, data, kMaxTransfer);
    driver_->put(queue, write);
  }
  driver_->ring_tail(queue);
  ASSERT_EQ(driver_->status(driver_->admin, format(0, kAllNamespaces)), CommandStatus::success);
  // Each write came before, and is gone, or was refused, or came after, which says so by its data.
  for (unsigned i = 0; i < 30; ++i) {
    const CommandStatus status = Driver::status_of(driver_->take(queue));
    EXPECT_TRUE(status == CommandStatus::success || status == CommandStatus::format_in_progress);
  }
  ASSERT_EQ(driver_->status(driver_->admin, format(0)), CommandStatus::success);
  EXPECT_EQ(file_.read(0, 30 << 20), std::string(30 << 20, '\0'));
}

TEST_F(Admin, UnknownCommands) {
  EXPECT_EQ(driver_->status(driver_->admin, Driver::command(AdminOpcode{0x10})),
            CommandStatus::invalid_opcode);
  Command sgl = Driver::command(AdminOpcode::identify);
  sgl.cdw10 = 1;
  sgl.flags = 0x40;
  EXPECT_EQ(driver_->status(driver_->admin, sgl), CommandStatus::invalid_field);
}

TEST(DiskOptions, BadOnesAreRefused) {
  const TestFile file(1 << 20);
  const TestFile tiny(100);
  const auto error = [](const DiskOptions& options) {
    const auto disk = Disk::create(options);
    return disk ? std::string() : disk.error();
  };
  EXPECT_EQ(error({}), "no file is given");
  EXPECT_EQ(error({.files = {"/nonexistent"}}), "/nonexistent: No such file or directory");
  EXPECT_EQ(error({.files = {"/dev/null"}}), "/dev/null: neither a file nor a block device");
  EXPECT_EQ(error({.files = {tiny.path()}}), tiny.path() + ": too small for one block");
  EXPECT_EQ(error({.files = {file.path()}, .lba_size = 1024}),
            "blocks of 1024 bytes: 512 or 4096 are possible");
  EXPECT_EQ(error({.files = {file.path()}, .io_queues = 128}), "128 queues: 1 to 127 are possible");
  EXPECT_EQ(error({.files = {file.path()}, .serial = std::string(21, 'x')}),
            "a serial number is up to 20 characters of ASCII");
  const auto disk = Disk::create({.files = {file.path()}});
  ASSERT_TRUE(disk);
  EXPECT_EQ(error({.files = {file.path()}}), file.path() + ": in use by another server");
}

}  // namespace
}  // namespace uvfio::nvme
