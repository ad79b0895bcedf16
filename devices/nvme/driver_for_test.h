// An NVMe driver for tests: what a kernel's driver does with registers, queues and interrupts.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "devices/nvme/disk.h"
#include "devices/nvme/protocol.h"
#include "devices/nvme/registers.h"
#include "tests/support/pci_port.h"

namespace uvfio::nvme {

// A file of `size` bytes that goes with this object.
class TestFile {
 public:
  explicit TestFile(std::uint64_t size) {
    path_ = testing_directory() + "/nvme-XXXXXX";
    const Fd made(mkstemp(path_.data()));
    if (ftruncate(made.get(), static_cast<off_t>(size)) != 0) std::abort();
  }
  ~TestFile() { unlink(path_.c_str()); }
  TestFile(const TestFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t size) const {
    std::ifstream file(path_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    std::string data(size, '\0');
    file.read(data.data(), static_cast<std::streamsize>(size));
    return data;
  }

 private:
  static std::string testing_directory() {
    const char* const directory = std::getenv("TMPDIR");
    return directory != nullptr ? directory : "/tmp";
  }
  std::string path_;
};

// Drives a disk from one thread. Memory is given out once and never taken back, page by page.
class Driver {
 public:
  static constexpr std::uint32_t kAdminEntries = 32;

  struct Queue {
    std::uint16_t id = 0;
    std::uint32_t entries = 0;
    std::uint64_t submissions = 0;  // offsets in memory
    std::uint64_t completions = 0;
    std::uint32_t tail = 0;
    std::uint32_t head = 0;
    bool phase = true;
    bool shadow = false;
  };

  // `mapped`: registers and doorbells are reached through the BAR's memory.
  Driver(pci::Model& disk, testing::PciPort& port, bool mapped = false)
      : disk_(disk), port_(port), bar_(mapped ? port.bar_memory(0) : std::span<std::byte>()) {}

  // ---- Registers.
  [[nodiscard]] std::uint64_t get(RegisterId id) {
    if (!bar_.empty()) {
      const std::uint64_t low = bar_word(offset_of(id)).load();
      if (kRegisters[static_cast<std::size_t>(id)].size == 4) return low;
      return low | std::uint64_t{bar_word(offset_of(id) + 4).load()} << 32;
    }
    return disk_.read_bar(0, offset_of(id), kRegisters[static_cast<std::size_t>(id)].size);
  }
  void set(RegisterId id, std::uint64_t value) {
    if (!bar_.empty()) {
      bar_word(offset_of(id)) = static_cast<std::uint32_t>(value);
      if (kRegisters[static_cast<std::size_t>(id)].size == 8)
        bar_word(offset_of(id) + 4) = static_cast<std::uint32_t>(value >> 32);
      return;
    }
    disk_.write_bar(0, offset_of(id), kRegisters[static_cast<std::size_t>(id)].size, value);
  }
  void ring(unsigned index, std::uint32_t value) {
    if (!bar_.empty()) {
      bar_word(kDoorbells + index * 4) = value;
      return;
    }
    disk_.write_bar(0, kDoorbells + index * 4, 4, value);
  }
  // There is no event for a change of CSTS: the driver looks now and then. False: ten seconds have
  // passed.
  bool wait_status(std::uint32_t mask, std::uint32_t value) {
    for (int i = 0; i < 10000; ++i) {
      if ((get(RegisterId::csts) & mask) == value) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  // ---- Memory.
  // Offset of `pages` pages of zeros.
  std::uint64_t allocate(std::uint64_t pages = 1) {
    const std::uint64_t offset = used_;
    used_ += pages * 4096;
    if (used_ > port_.memory().size()) std::abort();
    std::ranges::fill(at(offset, pages * 4096), std::byte{0});
    return offset;
  }
  static std::uint64_t iova(std::uint64_t offset) { return testing::PciPort::kIova + offset; }
  std::span<std::byte> at(std::uint64_t offset, std::size_t size) {
    return port_.memory().subspan(offset, size);
  }
  template <typename T>
  T load(std::uint64_t offset) {
    T value;
    std::memcpy(&value, at(offset, sizeof value).data(), sizeof value);
    return value;
  }
  template <typename T>
  void store(std::uint64_t offset, const T& value) {
    std::memcpy(at(offset, sizeof value).data(), &value, sizeof value);
  }
  void fill(std::uint64_t offset, std::size_t size, unsigned seed) {
    for (std::byte& byte : at(offset, size)) {
      seed = seed * 1664525 + 1013904223;
      byte = static_cast<std::byte>(seed >> 24);
    }
  }
  std::string text(std::uint64_t offset, std::size_t size) {
    return {reinterpret_cast<const char*>(at(offset, size).data()), size};
  }

  // ---- Life.
  static constexpr std::uint32_t kEnable = static_cast<std::uint32_t>(
      cc::En::put(1) | cc::IoSqes::put(kSqEntryShift) | cc::IoCqes::put(kCqEntryShift));

  bool enable() {
    admin = {
        .id = 0, .entries = kAdminEntries, .submissions = allocate(), .completions = allocate()};
    set(RegisterId::aqa, aqa::Asqs::put(kAdminEntries - 1) | aqa::Acqs::put(kAdminEntries - 1));
    set(RegisterId::asq, iova(admin.submissions));
    set(RegisterId::acq, iova(admin.completions));
    set(RegisterId::cc, kEnable);
    return wait_status(csts::Rdy::kMask | csts::Cfs::kMask, csts::Rdy::kMask);
  }
  bool disable() {
    set(RegisterId::cc, 0);
    return wait_status(csts::Rdy::kMask, 0);
  }

  // ---- Commands.
  // Puts a command into the queue; its id is the answer. ring_tail() shows it to the disk.
  std::uint16_t put(Queue& queue, Command command) {
    command.cid = next_cid_++;
    store(queue.submissions + queue.tail * sizeof command, command);
    queue.tail = (queue.tail + 1) % queue.entries;
    return command.cid;
  }
  void ring_tail(Queue& queue) { tell(queue, 2U * queue.id, queue.tail); }

  // Is the next completion there?
  bool has_completion(const Queue& queue) {
    const std::uint64_t offset = queue.completions + queue.head * sizeof(Completion);
    // The word with the phase tag comes last, so it is looked at first.
    auto& word = *reinterpret_cast<std::uint32_t*>(at(offset + 12, 4).data());
    const std::uint32_t last = std::atomic_ref(word).load(std::memory_order_acquire);
    return (last >> 16 & 1) == (queue.phase ? 1 : 0);
  }
  // The next completion. Fails the process if there is none for ten seconds.
  Completion take(Queue& queue) {
    if (!port_.wait([&] { return has_completion(queue); })) {
      std::fprintf(stderr, "no completion in queue %u\n", queue.id);
      std::abort();
    }
    const auto entry = load<Completion>(queue.completions + queue.head * sizeof(Completion));
    if (++queue.head == queue.entries) {
      queue.head = 0;
      queue.phase = !queue.phase;
    }
    tell(queue, 2U * queue.id + 1, queue.head);
    return entry;
  }
  Completion run(Queue& queue, const Command& command) {
    put(queue, command);
    ring_tail(queue);
    return take(queue);
  }
  CommandStatus status(Queue& queue, const Command& command) {
    return status_of(run(queue, command));
  }
  static CommandStatus status_of(const Completion& completion) {
    return static_cast<CommandStatus>(completion.status >> 1 & 0x7ff);
  }

  // ---- Admin commands.
  static Command command(AdminOpcode opcode) {
    return {.opcode = static_cast<std::uint8_t>(opcode)};
  }
  CommandStatus identify(std::uint8_t cns, std::uint32_t nsid, std::uint64_t offset) {
    Command each = command(AdminOpcode::identify);
    each.nsid = nsid;
    each.dptr[0] = iova(offset);
    each.cdw10 = cns;
    return status(admin, each);
  }
  CommandStatus get_log(LogPage page, std::uint64_t offset, std::uint32_t bytes,
                        bool retain = false) {
    Command each = command(AdminOpcode::get_log_page);
    each.nsid = kAllNamespaces;
    each.dptr[0] = iova(offset);
    each.cdw10 = static_cast<std::uint32_t>(page) | (bytes / 4 - 1) << 16 | (retain ? 1U << 15 : 0);
    return status(admin, each);
  }
  Completion set_feature(FeatureId id, std::uint32_t value) {
    Command each = command(AdminOpcode::set_features);
    each.cdw10 = static_cast<std::uint32_t>(id);
    each.cdw11 = value;
    return run(admin, each);
  }
  Completion get_feature(FeatureId id, std::uint32_t value = 0, unsigned select = 0) {
    Command each = command(AdminOpcode::get_features);
    each.cdw10 = static_cast<std::uint32_t>(id) | select << 8;
    each.cdw11 = value;
    return run(admin, each);
  }
  CommandStatus create_completion_queue(std::uint16_t id, std::uint32_t entries,
                                        std::uint64_t offset, std::uint16_t vector,
                                        bool interrupts = true) {
    Command each = command(AdminOpcode::create_cq);
    each.dptr[0] = iova(offset);
    each.cdw10 = id | (entries - 1) << 16;
    each.cdw11 = 1U | (interrupts ? 2U : 0U) | std::uint32_t{vector} << 16;
    return status(admin, each);
  }
  CommandStatus create_submission_queue(std::uint16_t id, std::uint32_t entries,
                                        std::uint64_t offset, std::uint16_t completions) {
    Command each = command(AdminOpcode::create_sq);
    each.dptr[0] = iova(offset);
    each.cdw10 = id | (entries - 1) << 16;
    each.cdw11 = 1U | std::uint32_t{completions} << 16;
    return status(admin, each);
  }
  CommandStatus delete_queue(AdminOpcode opcode, std::uint16_t id) {
    Command each = command(opcode);
    each.cdw10 = id;
    return status(admin, each);
  }
  Queue create_queue(std::uint16_t id, std::uint32_t entries, bool interrupts = true) {
    Queue queue{.id = id,
                .entries = entries,
                .submissions = allocate((entries * 64 + 4095) / 4096),
                .completions = allocate((entries * 16 + 4095) / 4096)};
    if (create_completion_queue(id, entries, queue.completions, id, interrupts) !=
            CommandStatus::success ||
        create_submission_queue(id, entries, queue.submissions, id) != CommandStatus::success)
      std::abort();
    return queue;
  }
  CommandStatus use_shadow_doorbells() {
    shadow_ = allocate();
    event_indexes_ = allocate();
    Command each = command(AdminOpcode::doorbell_buffer_config);
    each.dptr[0] = iova(shadow_);
    each.dptr[1] = iova(event_indexes_);
    return status(admin, each);
  }
  [[nodiscard]] unsigned doorbells_rung() const { return doorbells_rung_; }

  // ---- I/O commands.
  static Command io(IoOpcode opcode, std::uint64_t first, std::uint32_t blocks,
                    std::uint32_t nsid = 1) {
    return {.opcode = static_cast<std::uint8_t>(opcode),
            .nsid = nsid,
            .cdw10 = static_cast<std::uint32_t>(first),
            .cdw11 = static_cast<std::uint32_t>(first >> 32),
            .cdw12 = blocks - 1};
  }
  // PRPs for `size` bytes at `offset`, which may be inside a page.
  void set_prps(Command& each, std::uint64_t offset, std::uint64_t size) {
    std::vector<std::uint64_t> pages;
    for (std::uint64_t at = offset; at < offset + size; at = (at / 4096 + 1) * 4096)
      pages.push_back(iova(at));
    set_prps(each, pages);
  }
  void set_prps(Command& each, const std::vector<std::uint64_t>& pages) {
    each.dptr[0] = pages[0];
    if (pages.size() == 1) return;
    if (pages.size() == 2) {
      each.dptr[1] = pages[1];
      return;
    }
    std::uint64_t list = list_page();
    each.dptr[1] = iova(list);
    for (std::size_t i = 1, entry = 0; i < pages.size(); ++i, ++entry) {
      if (entry == 511 && i + 1 < pages.size()) {
        const std::uint64_t next = list_page();
        store(list + entry * 8, iova(next));
        list = next;
        entry = 0;
      }
      store(list + entry * 8, pages[i]);
    }
  }

  Queue admin;

 private:
  // Lists are used again after as many as can be in flight.
  std::uint64_t list_page() {
    if (lists_ == 0) lists_ = allocate(kLists);
    return lists_ + next_list_++ % kLists * 4096;
  }

  // As Linux does it: the shadow first, and the doorbell if the event index is passed.
  void tell(Queue& queue, unsigned index, std::uint32_t value) {
    if (queue.shadow) {
      const auto word = [&](std::uint64_t base) {
        return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(at(base + index * 4, 4).data()));
      };
      const auto before = static_cast<std::uint16_t>(word(shadow_).exchange(value));
      const auto event = static_cast<std::uint16_t>(word(event_indexes_).load());
      const auto now = static_cast<std::uint16_t>(value);
      if (static_cast<std::uint16_t>(now - event - 1) >= static_cast<std::uint16_t>(now - before))
        return;
    }
    ++doorbells_rung_;
    ring(index, value);
  }

  std::atomic_ref<std::uint32_t> bar_word(std::uint64_t offset) const {
    return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(&bar_[offset]));
  }

  pci::Model& disk_;
  testing::PciPort& port_;
  const std::span<std::byte> bar_;
  static constexpr std::uint64_t kLists = 256;
  std::uint64_t used_ = 0;
  std::uint64_t lists_ = 0;
  std::uint64_t next_list_ = 0;
  std::uint64_t shadow_ = 0;
  std::uint64_t event_indexes_ = 0;
  unsigned doorbells_rung_ = 0;
  std::uint16_t next_cid_ = 1;
};

}  // namespace uvfio::nvme
