// An NVMe disk and a driver that does anything: any registers, any queues, any commands, any
// memory. It may hang its own disk, which a reset brings back; it may not crash it, nor keep it
// from being reset or removed.

#include <fuzzer/FuzzedDataProvider.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "devices/nvme/driver_for_test.h"

namespace {

using namespace uvfio;
using namespace uvfio::nvme;
using testing::PciPort;

constexpr std::uint64_t kMemory = 64 << 12;
constexpr std::uint64_t kFile = 1 << 20;

// One file for all runs: what was left in it is not looked at.
const std::string& file() {
  static const std::string path = [] {
    const int fd = memfd_create("disk", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, kFile) != 0) std::abort();
    return "/proc/self/fd/" + std::to_string(fd);
  }();
  return path;
}

class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input), mapped_(input.ConsumeBool()) {
    auto disk = Disk::create(
        {.files = {file(), file_of_two()}, .io_queues = 3, .serial = "fuzz", .mappable = mapped_});
    if (!disk) std::abort();
    disk_ = std::move(*disk);
    if (mapped_) port_.make_bar(disk_->description().bars[0].size);
    disk_->connect(port_);
    disk_->reset();
    disk_->bus_master_changed(true);
    driver_.emplace(*disk_, port_);
  }
  ~Session() {
    disk_->reset();
    if (disk_->read_bar(0, offset_of(RegisterId::cc), 4) != 0) std::abort();
    // Nothing is held any more.
    static_cast<void>(port_.unmap(0, kMemory));
    disk_.reset();
  }

  void run() {
    if (input_.ConsumeBool()) set_up();
    for (int step = 0; step < 100 && input_.remaining_bytes() > 0; ++step) {
      switch (input_.ConsumeIntegralInRange(0, 11)) {
        case 0:
          access_register();
          break;
        case 1:
          write_register(kDoorbells + input_.ConsumeIntegralInRange<std::uint64_t>(0, 300) * 4, 4,
                         input_.ConsumeIntegralInRange<std::uint32_t>(0, 80));
          break;
        case 2:
          fill_memory();
          break;
        case 3:
          change_surroundings();
          break;
        case 4:
          settle();
          break;
        default:
          command();
      }
    }
    settle();
  }

 private:
  static const std::string& file_of_two() {
    static const std::string path = [] {
      const int fd = memfd_create("disk2", MFD_CLOEXEC);
      if (fd < 0 || ftruncate(fd, kFile) != 0) std::abort();
      return "/proc/self/fd/" + std::to_string(fd);
    }();
    return path;
  }

  // The worker has done what it was told before.
  void settle() {
    disk_->bus_master_changed(false);
    if (mapped_) disk_->bus_master_changed(port_.bus_master);
  }

  void set_up() {
    if (!driver_->enable()) std::abort();
    for (std::uint16_t id = 1; id <= 2; ++id) queues_.push_back(driver_->create_queue(id, 16));
    if (input_.ConsumeBool()) static_cast<void>(driver_->use_shadow_doorbells());
  }

  void access_register() {
    const std::uint64_t offset = input_.ConsumeIntegralInRange<std::uint64_t>(0, 0x50) & ~3ULL;
    const unsigned width = offset % 8 == 0 && input_.ConsumeBool() ? 8 : 4;
    if (input_.ConsumeBool()) {
      static_cast<void>(disk_->read_bar(0, offset, width));
    } else {
      write_register(offset, width, input_.ConsumeIntegral<std::uint64_t>());
    }
  }

  // By a request, or through a mapping, if there can be one.
  void write_register(std::uint64_t offset, unsigned width, std::uint64_t value) {
    if (!mapped_ || input_.ConsumeBool()) return disk_->write_bar(0, offset, width, value);
    for (unsigned half = 0; half < width / 4; ++half) {
      auto& word = *reinterpret_cast<std::uint32_t*>(&port_.bar_memory(0)[offset + half * 4]);
      std::atomic_ref(word).store(static_cast<std::uint32_t>(value >> (32 * half)));
    }
    if (port_.bus_master) disk_->bus_master_changed(true);  // it looks now
  }

  void fill_memory() {
    const auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange(0, 256));
    const auto offset =
        input_.ConsumeIntegralInRange<std::uint64_t>(0, kMemory - bytes.size()) & ~7ULL;
    std::ranges::copy(bytes, port_.memory().begin() + static_cast<std::ptrdiff_t>(offset));
  }

  void change_surroundings() {
    switch (input_.ConsumeIntegralInRange(0, 6)) {
      case 0:
        port_.bus_master = !port_.bus_master;
        disk_->bus_master_changed(port_.bus_master);
        break;
      case 1:
        port_.mode = static_cast<pci::InterruptMode>(input_.ConsumeIntegralInRange(0, 3));
        break;
      case 2:
        static_cast<void>(port_.unmap(0, kMemory / 2));
        break;
      case 3:
        static_cast<void>(port_.map(0, kMemory / 2));
        break;
      case 4:
        disk_->reset();
        break;
      case 5:
        disk_->write_bar(0, offset_of(RegisterId::cc), 4, 0);
        break;
      default:
        disk_->write_bar(0, offset_of(RegisterId::cc), 4, Driver::kEnable);
    }
  }

  std::uint64_t address() {
    if (input_.ConsumeIntegralInRange(0, 9) == 0) return input_.ConsumeIntegral<std::uint64_t>();
    const auto page = input_.ConsumeIntegralInRange<std::uint64_t>(0, 65) * 4096;
    return PciPort::kIova + page +
           (input_.ConsumeBool() ? 0 : input_.ConsumeIntegral<std::uint8_t>() * 16);
  }

  // One whose fields are plausible each by itself.
  void command() {
    Command command{};
    const bool admin = queues_.empty() || input_.ConsumeBool();
    command.opcode = input_.ConsumeIntegralInRange<std::uint8_t>(0, 0x0d);
    if (admin && input_.ConsumeIntegralInRange(0, 7) == 0)
      command.opcode = input_.ConsumeBool() ? 0x80 : 0x7c;
    command.flags =
        input_.ConsumeIntegralInRange(0, 3) == 0 ? input_.ConsumeIntegral<std::uint8_t>() : 0;
    command.nsid = input_.ConsumeIntegralInRange<std::uint32_t>(0, 3) == 3
                       ? kAllNamespaces
                       : input_.ConsumeIntegralInRange<std::uint32_t>(0, 3);
    command.dptr[0] = address();
    command.dptr[1] = address();
    command.cdw10 = input_.ConsumeBool() ? input_.ConsumeIntegralInRange<std::uint32_t>(0, 32)
                                         : input_.ConsumeIntegral<std::uint32_t>();
    command.cdw11 = input_.ConsumeBool() ? input_.ConsumeIntegralInRange<std::uint32_t>(0, 7)
                                         : input_.ConsumeIntegral<std::uint32_t>();
    command.cdw12 = input_.ConsumeIntegralInRange<std::uint32_t>(0, 300);
    if (input_.ConsumeIntegralInRange(0, 7) == 0)
      command.cdw12 = input_.ConsumeIntegral<std::uint32_t>();
    command.cdw13 = input_.ConsumeIntegralInRange<std::uint32_t>(0, 1);
    if (admin && driver_->admin.entries == 0) return;
    Driver::Queue& queue =
        admin ? driver_->admin
              : queues_[input_.ConsumeIntegralInRange<std::size_t>(0, queues_.size() - 1)];
    driver_->put(queue, command);
    driver_->ring(2U * queue.id, queue.tail);
    // The driver has taken whatever there may be.
    if (input_.ConsumeBool())
      driver_->ring(2U * queue.id + 1, input_.ConsumeIntegralInRange<std::uint32_t>(0, 31));
  }

  FuzzedDataProvider& input_;
  const bool mapped_;
  PciPort port_{kMemory};
  std::unique_ptr<Disk> disk_;
  std::optional<Driver> driver_;
  std::vector<Driver::Queue> queues_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool quiet = (spdlog::set_level(spdlog::level::off), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, size);
  Session(input).run();
  return 0;
}
