// Each device model behind VFIO, and a guest that does anything to its BARs: any accesses, trapped
// or through a mapping, any memory, mappings that come and go while the device works. It may hang
// its own device, which a reset brings back to power-on; it may not crash it, nor make it read or
// write what is not mapped for it.

#include <fuzzer/FuzzedDataProvider.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "devices/edu/edu.h"
#include "devices/endpoint/endpoint.h"
#include "devices/ioat/ioat.h"
#include "devices/mtty/mtty_device.h"
#include "fuzz/guest_memory.h"
#include "pci/layout.h"
#include "tests/support/arena_caller.h"
#include "uapi/ioctl.h"
#include "uvfio/host.h"
#include "uvfio/vfio_pci.h"

namespace {

using namespace uvfio;
using fuzz::check;
using fuzz::GuestMemory;
using testing::ArenaCaller;

enum class Kind : std::uint8_t { ioat, ioat_reporting, edu, edu_wide, endpoint, mtty };
constexpr auto kLastKind = Kind::mtty;
constexpr unsigned kConfig = VFIO_PCI_CONFIG_REGION_INDEX;

template <typename Model, typename... Args>
std::unique_ptr<vfio::DeviceOps> mediated(Args... args) {
  auto ops = vfio_pci::make_mediated(std::make_unique<Model>(args...));
  check(ops.has_value());
  return std::move(*ops);
}
std::unique_ptr<vfio::DeviceOps> make(Kind kind) {
  switch (kind) {
    case Kind::ioat:
      return mediated<ioat::Ioat>();
    case Kind::ioat_reporting:
      return mediated<ioat::Ioat>(ioat::Faults::report);
    case Kind::edu:
      return mediated<edu::Edu>();
    case Kind::edu_wide:
      return mediated<edu::Edu>(~std::uint64_t{0});
    case Kind::endpoint:
      return mediated<endpoint::Endpoint>();
    case Kind::mtty:
      break;
  }
  return std::make_unique<mtty::MttyDevice>(2);
}

// Which BAR a client can map, whole.
struct MappedBar {
  unsigned index = 0;
  std::size_t size = 0;
};
MappedBar mapped_bar(Kind kind) {
  if (kind == Kind::ioat || kind == Kind::ioat_reporting) return {.index = 0, .size = 0x4000};
  if (kind == Kind::endpoint) return {.index = 2, .size = 0x10000};
  return {};
}

class Session {
 public:
  explicit Session(FuzzedDataProvider& input)
      : input_(input),
        kind_(static_cast<Kind>(input.ConsumeIntegralInRange(0, static_cast<int>(kLastKind)))),
        bar_(mapped_bar(kind_)) {
    device_ = host_.vfio().register_emulated("device", "devices/device", make(kind_));
    caller_.files[7] = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    caller_.containers[3] = host_.vfio().open_container();
    auto group = device_->group().open();
    check(group && (*group)->set_container(caller_.containers[3]));
    check(caller_.containers[3]->set_iommu(VFIO_TYPE1v2_IOMMU).has_value());
    group_ = std::move(*group);
    reopen();
    power_on_ = registers();
  }
  ~Session() {
    // Stops the device, whatever it is at.
    reopen();
    memory_.check_all();
    // The sample's ports keep their state.
    if (kind_ != Kind::mtty) check(registers() == power_on_);
    caller_.devices.clear();
    unmap_bar();
    group_.reset();
    host_.vfio().unregister(device_);
    caller_.containers.clear();
    check(host_.vfio().groups().empty() && memory_.space()->locked().pages() == 0);
  }

  void run() {
    // What an input does not say any more is zero, with which things go well.
    if (!input_.ConsumeBool()) {
      map(0, 8, GuestMemory::kReadWrite);
      map(8, 4, VFIO_DMA_MAP_FLAG_READ);
      map(16, 4, GuestMemory::kReadWrite);
      put(kConfig, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    }
    for (int step = 0; step < 100 && input_.remaining_bytes() > 0; ++step) {
      switch (input_.ConsumeIntegralInRange(0, 11)) {
        case 0:
        case 1:
          access(input_.ConsumeIntegralInRange(0u, 9u));
          break;
        case 2:
          access(kConfig);
          break;
        case 3:
          memory_.fill(input_.ConsumeIntegralInRange<std::uint64_t>(0, GuestMemory::kSize),
                       input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange(0, 200)));
          break;
        case 4:
          map(page(), page(), input_.ConsumeIntegralInRange<std::uint32_t>(1, 3));
          break;
        case 5:
          unmap(page(), page());
          break;
        case 6:
          set_irqs();
          break;
        case 7:
          change_surroundings();
          break;
        case 8:
          settle();
          break;
        default:
          work();
      }
    }
    settle();
  }

 private:
  void reopen() {
    caller_.devices.clear();
    auto file = vfio::GroupFile::get_device(group_, "device");
    check(file.has_value());
    caller_.devices[100] = std::move(*file);
    map_bar();
  }
  vfio::DeviceOps& ops() { return caller_.devices[100]->ops(); }

  // ---- Accesses

  std::uint64_t get(unsigned region, std::uint64_t offset, unsigned width) {
    std::uint64_t value = 0;
    static_cast<void>(ops().read(pci::region_offset(region) + offset,
                                 std::as_writable_bytes(std::span(&value, 1)).first(width)));
    return value;
  }
  void put(unsigned region, std::uint64_t offset, unsigned width, std::uint64_t value) {
    static_cast<void>(ops().write(pci::region_offset(region) + offset,
                                  std::as_bytes(std::span(&value, 1)).first(width)));
  }

  void access(unsigned region) {
    std::uint64_t offset = input_.ConsumeIntegralInRange<std::uint64_t>(0, 0xd0);
    if (input_.ConsumeIntegralInRange(0, 7) == 0) offset = input_.ConsumeIntegral<std::uint64_t>();
    // Mostly there is something only in BAR 0.
    if (region > 2 && region < kConfig && input_.ConsumeBool()) region = 0;
    const std::uint64_t position = pci::region_offset(region) + offset;
    auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 24));
    const bool write = input_.ConsumeBool();
    const auto done = write ? ops().write(position, bytes) : ops().read(position, bytes);
    check(!done || *done <= bytes.size());
    check(!memory_.has_secret(bytes));
  }

  // Each client's file is another one.
  void map_bar() {
    unmap_bar();
    if (bar_.size == 0) return;
    void* const at =
        mmap(nullptr, bar_.size, PROT_READ | PROT_WRITE, MAP_SHARED, ops().mmap_backing()->get(),
             static_cast<off_t>(pci::region_offset(bar_.index)));
    check(at != MAP_FAILED);
    mapping_ = {static_cast<std::byte*>(at), bar_.size};
  }
  void unmap_bar() {
    if (!mapping_.empty()) munmap(mapping_.data(), mapping_.size());
    mapping_ = {};
  }

  // What a reset has to bring back.
  std::vector<std::byte> registers() {
    std::vector<std::byte> all(0x100 + mapping_.size());
    check(ops().read(pci::region_offset(0), std::span(all).first(0x100)).has_value());
    std::ranges::copy(mapping_, all.begin() + 0x100);
    return all;
  }

  // ---- The surroundings

  std::uint64_t page() {
    return input_.ConsumeIntegralInRange<std::uint64_t>(0, GuestMemory::kPages);
  }
  bool call(std::uint32_t command, const auto& request) {
    return uapi::container_ioctl(*caller_.containers[3], caller_, command, caller_.put(request))
        .has_value();
  }
  void map(std::uint64_t first, std::uint64_t pages, std::uint32_t flags) {
    memory_.map(first, pages, flags,
                [this](const auto& request) { return call(VFIO_IOMMU_MAP_DMA, request); });
  }
  void unmap(std::uint64_t first, std::uint64_t pages) {
    memory_.unmap(first, pages,
                  [this](const auto& request) { return call(VFIO_IOMMU_UNMAP_DMA, request); });
  }
  void set_irqs() {
    struct {
      std::array<std::uint32_t, 5> header;
      std::array<std::int32_t, 4> fds;
    } set{};
    set.header = {sizeof set,
                  input_.PickValueInArray<std::uint32_t>({1, 2, 4, 4, 4}) |
                      input_.PickValueInArray<std::uint32_t>({8, 16, 32, 32, 32}),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 5),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 4),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 4)};
    for (auto& fd : set.fds) fd = input_.PickValueInArray<std::int32_t>({-1, 7, 7, 9});
    if (input_.ConsumeBool()) {
      // As a driver does.
      set.header = {sizeof set, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                    input_.ConsumeIntegralInRange<std::uint32_t>(0, 2), 0, 1};
      set.fds[0] = 7;
    }
    static_cast<void>(
        uapi::device_ioctl(*caller_.devices[100], caller_, VFIO_DEVICE_SET_IRQS, caller_.put(set)));
  }
  void change_surroundings() {
    switch (input_.ConsumeIntegralInRange(0, 3)) {
      case 0:
        put(kConfig, PCI_COMMAND, 2,
            input_.ConsumeIntegralInRange(0, 7) |
                (input_.ConsumeBool() ? PCI_COMMAND_INTX_DISABLE : 0));
        break;
      case 1:
        static_cast<void>(uapi::device_ioctl(*caller_.devices[100], caller_, VFIO_DEVICE_RESET, 0));
        break;
      case 2:
        reopen();
        break;
      default: {
        // What traps nowhere.
        const auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange(0, 8));
        // While it does not decode, an access raises SIGBUS, and the file is empty.
        struct stat backing {};
        if (mapping_.empty() || fstat(ops().mmap_backing()->get(), &backing) != 0 ||
            backing.st_size == 0)
          break;
        const auto at = input_.ConsumeIntegralInRange<std::size_t>(
            0, input_.ConsumeBool() ? 0xc0 : mapping_.size() - bytes.size());
        std::ranges::copy(bytes, mapping_.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
  }

  // ---- What the device is for

  // Until the device has done what it was told, or the guest loses its patience.
  void settle() {
    const auto until = std::min(patience_, Clock::now() + std::chrono::milliseconds(1));
    while (busy() && Clock::now() < until) std::this_thread::yield();
  }
  bool busy() {
    if ((get(kConfig, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY) == 0) return false;
    switch (kind_) {
      case Kind::ioat:
      case Kind::ioat_reporting:
        return (get(0, ioat::kChanSts.offset, 8) & 7) ==
               static_cast<unsigned>(ioat::ChanState::active);
      case Kind::edu:
      case Kind::edu_wide:
        return ((get(0, edu::kStatus, 4) & edu::kStatusComputing) |
                (get(0, edu::kDmaCommand, 8) & edu::kDmaStart)) != 0;
      case Kind::endpoint:
      case Kind::mtty:
        break;  // done when told
    }
    return false;
  }

  std::uint64_t address() {
    if (input_.ConsumeIntegralInRange(0, 15) == 15) return input_.ConsumeIntegral<std::uint64_t>();
    const std::uint64_t start = GuestMemory::iova(page());
    switch (input_.ConsumeIntegralInRange(0, 2)) {
      case 0:
        return start;
      case 1:
        return start - input_.ConsumeIntegralInRange<std::uint64_t>(1, 64);
      default:
        return start + input_.ConsumeIntegralInRange<std::uint64_t>(0, memory::kPageSize - 1);
    }
  }

  void work() {
    switch (kind_) {
      case Kind::ioat:
      case Kind::ioat_reporting:
        return run_chain();
      case Kind::edu:
      case Kind::edu_wide:
        return run_edu();
      case Kind::endpoint:
        return run_test();
      case Kind::mtty:
        for (int i = input_.ConsumeIntegralInRange(0, 20); i > 0; --i) put(0, 0, 1, 'x');
    }
  }

  // Descriptors whose fields are plausible each by itself.
  void run_chain() {
    const std::uint64_t ring = page();
    const auto count = input_.ConsumeIntegralInRange<unsigned>(1, 6);
    for (unsigned i = 0; i < count; ++i) {
      ioat::Descriptor descriptor{
          .size = input_.ConsumeIntegralInRange<std::uint32_t>(1, 3 * memory::kPageSize),
          .control = input_.ConsumeIntegralInRange<std::uint32_t>(0, 31) |
                     input_.PickValueInArray<std::uint32_t>(
                         {0, 0, 0, ioat::Descriptor::kNull, ioat::Descriptor::kFill << 24}),
          .source = address(),
          .destination = address(),
          .next = GuestMemory::iova(ring) + (i + 1) * sizeof descriptor};
      switch (input_.ConsumeIntegralInRange(0, 15)) {
        case 13:
          descriptor.size = input_.ConsumeIntegralInRange<std::uint32_t>(0, ioat::kMaxTransfer + 1);
          break;
        case 14:
          descriptor.control = input_.ConsumeIntegral<std::uint32_t>();
          break;
        case 15:
          descriptor.next = address() & ~std::uint64_t{63};
          break;
        default:
          break;
      }
      const auto bytes = std::as_bytes(std::span(&descriptor, 1));
      memory_.fill(ring * memory::kPageSize + i * sizeof descriptor, {bytes.begin(), bytes.end()});
    }
    if (input_.ConsumeBool()) {
      put(0, ioat::kChanCmd.offset, 1,
          input_.PickValueInArray<std::uint8_t>(
              {ioat::ChanCmd::kReset, ioat::ChanCmd::kAbort, ioat::ChanCmd::kSuspend}));
    }
    put(0, ioat::kIntrCtrl.offset, 1, input_.ConsumeIntegralInRange(0, 15));
    put(0, ioat::kChanCtrl.offset, 2, input_.ConsumeIntegralInRange(0, 31));
    put(0, ioat::kChanCmp.offset, 8, address());
    put(0, ioat::kChainAddr.offset, 8, GuestMemory::iova(ring));
    put(0, ioat::kDmaCount.offset, 2,
        input_.ConsumeBool() ? input_.ConsumeIntegralInRange(0u, 2 * count) : count);
    if (input_.ConsumeBool()) put(0, ioat::kChanCmd.offset, 1, ioat::ChanCmd::kResume);
  }
  std::uint64_t in_buffer() {
    constexpr std::uint64_t kEnd = edu::kBufferSize;
    return input_.ConsumeBool()
               ? input_.ConsumeIntegralInRange<std::uint64_t>(0, kEnd)
               : input_.PickValueInArray<std::uint64_t>({0, 1, kEnd - 1, kEnd, kEnd + 1});
  }
  void run_edu() {
    if (input_.ConsumeBool()) put(0, edu::kFactorial, 4, input_.ConsumeIntegralInRange(0, 40));
    const std::uint64_t inside = edu::kBuffer + in_buffer();
    const std::uint64_t command = input_.ConsumeIntegralInRange<std::uint64_t>(0, 7);
    const bool to_memory = (command & edu::kDmaToMemory) != 0;
    put(0, edu::kDmaSource, 8, to_memory ? inside : address());
    put(0, edu::kDmaDestination, 8, to_memory ? address() : inside);
    put(0, edu::kDmaCount, 8, in_buffer());
    put(0, edu::kDmaCommand, 8, command);
  }
  void run_test() {
    using endpoint::Registers;
    put(0, offsetof(Registers, source), 8, address());
    put(0, offsetof(Registers, destination), 8, address());
    put(0, offsetof(Registers, size), 4,
        input_.ConsumeIntegralInRange<std::uint32_t>(0, 4 * memory::kPageSize));
    put(0, offsetof(Registers, interrupt_number), 4, input_.ConsumeIntegralInRange(0, 5));
    put(0, offsetof(Registers, command), 4, 4 << input_.ConsumeIntegralInRange(0, 3));
  }

  using Clock = std::chrono::steady_clock;

  FuzzedDataProvider& input_;
  const Kind kind_;
  const MappedBar bar_;
  const Clock::time_point patience_ = Clock::now() + std::chrono::milliseconds(5);
  GuestMemory memory_;
  Host host_;
  std::shared_ptr<vfio::Device> device_;
  ArenaCaller caller_{1 << 12, memory_.space()};
  std::shared_ptr<vfio::GroupFile> group_;
  std::span<std::byte> mapping_;
  std::vector<std::byte> power_on_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool quiet = (spdlog::set_level(spdlog::level::off), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, size);
  Session(input).run();
  return 0;
}
