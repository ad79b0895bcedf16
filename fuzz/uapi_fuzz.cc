// The whole ioctl surface, with reads and writes: a client that does anything, in any order, with
// any bytes in its memory. Nothing it does may crash, leak or hang the server, and when it has gone
// nothing may be left of it.

#include <fuzzer/FuzzedDataProvider.h>
#include <linux/vfio.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <array>
#include <cstdlib>

#include "devices/mtty/mtty.h"
#include "tests/support/arena_caller.h"
#include "tests/support/fake_device.h"
#include "uapi/ioctl.h"
#include "uvfio/host.h"
#include "uvfio/vfio_compat.h"

namespace {

using namespace uvfio;
using testing::ArenaCaller;

constexpr std::array<std::uint32_t, 26> kCommands{
    VFIO_GET_API_VERSION,        VFIO_CHECK_EXTENSION,        VFIO_SET_IOMMU,
    VFIO_GROUP_GET_STATUS,       VFIO_GROUP_SET_CONTAINER,    VFIO_GROUP_UNSET_CONTAINER,
    VFIO_GROUP_GET_DEVICE_FD,    VFIO_DEVICE_GET_INFO,        VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,    VFIO_DEVICE_SET_IRQS,        VFIO_DEVICE_RESET,
    VFIO_IOMMU_GET_INFO,         VFIO_IOMMU_MAP_DMA,          VFIO_IOMMU_UNMAP_DMA,
    VFIO_IOMMU_ENABLE,           VFIO_IOMMU_DISABLE,          VFIO_DEVICE_FEATURE,
    VFIO_IOMMU_DIRTY_PAGES,      VFIO_MIG_GET_PRECOPY_INFO,   VFIO_IOMMU_SPAPR_REGISTER_MEMORY,
    VFIO_DEVICE_PCI_HOT_RESET,   VFIO_DEVICE_IOEVENTFD,       VFIO_EEH_PE_OP,
    VFIO_IOMMU_SPAPR_TCE_CREATE, VFIO_IOMMU_SPAPR_TCE_REMOVE,
};

// A host with a serial card and a device that does DMA, and one client of it.
class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input) {
    parents_ = {*mtty::register_mtty(host_.mdev(), mtty_), register_fake()};
    for (const auto& parent : parents_) {
      devices_.push_back(*host_.mdev().create(parent, parent->types()[0], Uuid::random()));
    }
    caller_.files[3] = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    caller_.containers[4] = host_.vfio().open_container();
    caller_.containers[5] = host_.vfio().open_container();
    fake_.record.on_dma_unmap = [this](std::uint64_t iova, std::uint64_t size) {
      std::erase_if(
          pins_, [&](const auto& pin) { return pin.iova() >= iova && pin.iova() - iova < size; });
    };
  }
  ~Session() {
    pins_.clear();
    caller_.devices.clear();
    groups_.clear();
    caller_.containers.clear();
    // All of the client has gone: devices must be free, its memory uncharged.
    for (const auto& device : devices_) {
      if (!host_.mdev().remove(device)) std::abort();
    }
    devices_.clear();
    if (!host_.vfio().groups().empty() || caller_.space->locked().pages() != 0) std::abort();
    host_.mdev().unregister_parent(parents_[0]);
    host_.mdev().unregister_parent(parents_[1]);
  }

  void run() {
    for (int step = 0; step < 200 && input_.remaining_bytes() > 0; ++step) {
      switch (input_.ConsumeIntegralInRange(0, 9)) {
        case 0:
          open_group();
          break;
        case 1:
          close_something();
          break;
        case 2:
          access_device();
          break;
        case 3:
          pin_or_copy();
          break;
        case 4:
          use_stream();
          break;
        default:
          call_ioctl();
      }
    }
  }

 private:
  std::shared_ptr<mdev::Parent> register_fake() {
    if (!host_.mdev().register_driver(fake_)) std::abort();
    return *host_.mdev().register_parent(
        {.name = "fake", .driver_name = "fake", .types = {{"1", "Fake"}}}, fake_);
  }

  void open_group() {
    const auto& device =
        devices_[input_.ConsumeIntegralInRange<std::size_t>(0, devices_.size() - 1)];
    if (auto group = device->vfio_device()->group().open()) groups_.push_back(std::move(*group));
  }

  void close_something() {
    switch (input_.ConsumeIntegralInRange(0, 3)) {
      case 0:
        if (!groups_.empty()) groups_.erase(groups_.begin());
        break;
      case 1:
        if (!caller_.devices.empty()) caller_.devices.erase(caller_.devices.begin());
        break;
      case 2:
        if (!caller_.streams.empty()) caller_.streams.erase(caller_.streams.begin());
        break;
      default:
        caller_.containers[4 + input_.ConsumeIntegralInRange(0, 1)] = host_.vfio().open_container();
    }
  }

  template <typename Map>
  auto pick(Map& map) {
    auto at = map.begin();
    std::advance(at, input_.ConsumeIntegralInRange<std::size_t>(0, map.size() - 1));
    return at;
  }

  // Places bytes into the client's memory and returns their address, mostly a good one.
  std::uint64_t argument() {
    if (input_.ConsumeProbability<float>() < 0.05F) return input_.ConsumeIntegral<std::uint64_t>();
    const std::size_t size = input_.ConsumeIntegralInRange<std::size_t>(0, 96);
    const auto bytes = input_.ConsumeBytes<std::byte>(size);
    const bool at_end = input_.ConsumeProbability<float>() < 0.05F;
    const std::size_t offset = at_end ? caller_.arena.size() - bytes.size() : 0;
    std::ranges::copy(bytes, caller_.arena.begin() + static_cast<std::ptrdiff_t>(offset));
    return ArenaCaller::kBase + offset;
  }

  void call_ioctl() {
    const std::uint32_t command =
        input_.ConsumeBool() ? input_.PickValueInArray(kCommands)
                             : input_.ConsumeIntegralInRange<std::uint32_t>(0x3b60, 0x3b90);
    // Well-formed ones are too rare by chance to get anywhere.
    std::uint64_t arg = 0;
    if (input_.ConsumeBool()) {
      arg = argument();
    } else if (command == VFIO_SET_IOMMU || command == VFIO_CHECK_EXTENSION) {
      arg = input_.ConsumeIntegralInRange<std::uint64_t>(0, 12);
    } else if (command == VFIO_GROUP_SET_CONTAINER) {
      arg = caller_.put(input_.ConsumeIntegralInRange<std::int32_t>(2, 6));
    } else if (command == VFIO_GROUP_GET_DEVICE_FD) {
      const std::string name =
          devices_[input_.ConsumeIntegralInRange<std::size_t>(0, devices_.size() - 1)]->name();
      std::memcpy(caller_.arena.data(), name.c_str(), name.size() + 1);
      arg = ArenaCaller::kBase;
    } else if (command == VFIO_IOMMU_MAP_DMA) {
      arg = caller_.put(
          vfio_iommu_type1_dma_map{.argsz = 32,
                                   .flags = input_.ConsumeIntegralInRange<std::uint32_t>(0, 4),
                                   .vaddr = page(),
                                   .iova = page(),
                                   .size = page()});
    } else if (command == VFIO_IOMMU_UNMAP_DMA) {
      arg = caller_.put(
          vfio_iommu_type1_dma_unmap{.argsz = 24,
                                     .flags = input_.ConsumeIntegralInRange<std::uint32_t>(0, 4),
                                     .iova = page(),
                                     .size = page()});
    } else {
      arg = argument();
    }
    switch (input_.ConsumeIntegralInRange(0, 3)) {
      case 0:
        static_cast<void>(
            uapi::container_ioctl(*pick(caller_.containers)->second, caller_, command, arg));
        break;
      case 1:
        if (groups_.empty()) return;
        static_cast<void>(uapi::group_ioctl(*pick(groups_), caller_, command, arg));
        break;
      case 2:
        if (caller_.devices.empty()) return;
        static_cast<void>(
            uapi::device_ioctl(*pick(caller_.devices)->second, caller_, command, arg));
        break;
      default:
        if (caller_.streams.empty()) return;
        static_cast<void>(
            uapi::migration_ioctl(*pick(caller_.streams)->second, caller_, command, arg));
    }
  }

  std::uint64_t page() { return input_.ConsumeIntegralInRange<std::uint64_t>(0, 300) * 4096; }

  void access_device() {
    if (caller_.devices.empty()) return;
    vfio::DeviceOps& device = pick(caller_.devices)->second->ops();
    const std::uint64_t position =
        input_.ConsumeBool()
            ? input_.ConsumeIntegral<std::uint64_t>()
            : std::uint64_t{input_.ConsumeIntegralInRange<std::uint32_t>(0, 9)} << 40 |
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 300);
    auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 32));
    const auto done =
        input_.ConsumeBool() ? device.read(position, bytes) : device.write(position, bytes);
    if (done && *done > bytes.size()) std::abort();
  }

  // What a device might do meanwhile.
  void pin_or_copy() {
    vfio::Device& device = *devices_[1]->vfio_device();
    std::array<std::byte, 64> data{};
    switch (input_.ConsumeIntegralInRange(0, 3)) {
      case 0:
        if (auto pin =
                device.pin_pages(page(), input_.ConsumeIntegralInRange<std::uint64_t>(0, 600),
                                 static_cast<vfio::Prot>(input_.ConsumeIntegralInRange(0, 3)))) {
          static_cast<void>(pin->write(input_.ConsumeIntegral<std::uint16_t>(), data));
          pins_.push_back(std::move(*pin));
        }
        break;
      case 1:
        static_cast<void>(device.dma_read(page() + input_.ConsumeIntegralInRange(0, 4095), data));
        break;
      case 2:
        static_cast<void>(device.dma_write(page() + input_.ConsumeIntegralInRange(0, 4095), data));
        break;
      default:
        if (auto dma = device.dma()) static_cast<void>(dma->translate(page(), 8, vfio::Prot::read));
    }
  }

  void use_stream() {
    if (caller_.streams.empty()) return;
    auto& stream = *pick(caller_.streams)->second;
    auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 64));
    const auto done = input_.ConsumeBool() ? stream.read(bytes) : stream.write(bytes);
    if (done && *done > bytes.size()) std::abort();
  }

  FuzzedDataProvider& input_;
  mtty::MttyDriver mtty_;
  testing::FakeDriver fake_;
  Host host_;
  std::vector<std::shared_ptr<mdev::Parent>> parents_;
  std::vector<std::shared_ptr<mdev::Device>> devices_;
  ArenaCaller caller_{1 << 16};
  std::vector<std::shared_ptr<vfio::GroupFile>> groups_;
  std::vector<vfio::PinnedPages> pins_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool quiet = (spdlog::set_level(spdlog::level::off), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, size);
  Session(input).run();
  return 0;
}
