// A client of a vfio-pci device that does anything: configuration space, BARs, ROM and VGA ranges,
// every ioctl of the device, while the model raises interrupts. Nothing may crash, leak or hang,
// and what is written to virtual bits never reaches the hardware.

#include <fuzzer/FuzzedDataProvider.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <array>
#include <cstdlib>

#include "pci/layout.h"
#include "tests/support/arena_caller.h"
#include "tests/support/pci_model.h"
#include "uapi/ioctl.h"
#include "uvfio/host.h"
#include "uvfio/vfio_compat.h"
#include "uvfio/vfio_pci.h"

namespace {

using namespace uvfio;
using testing::ArenaCaller;
using testing::PciModel;

pci::Description description(FuzzedDataProvider& input) {
  auto description = PciModel::full();
  description.pcie = input.ConsumeBool();
  description.flr = description.pcie && input.ConsumeBool();
  description.power_management = input.ConsumeBool();
  description.intx = input.ConsumeBool();
  description.msi_vectors = input.PickValueInArray({0u, 1u, 4u, 32u});
  description.msi_maskable = input.ConsumeBool();
  if (input.ConsumeBool()) description.msix.reset();
  if (input.ConsumeBool()) {
    description.vga = true;
    description.class_code = 0x030000;
  }
  if (input.ConsumeBool()) description.rom = input.ConsumeBytes<std::byte>(200);
  for (int i = input.ConsumeIntegralInRange(0, 3); i > 0; --i) {
    pci::ExtraCapability extra{
        .id = input.PickValueInArray<std::uint8_t>({PCI_CAP_ID_VPD, PCI_CAP_ID_VNDR, PCI_CAP_ID_AF,
                                                    PCI_CAP_ID_SSVID, PCI_CAP_ID_PCIX, 0x55}),
        .body = input.ConsumeBytes<std::uint8_t>(input.ConsumeIntegralInRange<std::size_t>(0, 24)),
        .writable = {}};
    if (input.ConsumeBool()) extra.writable.assign(extra.body.size(), 0xff);
    description.capabilities.push_back(std::move(extra));
  }
  return description;
}

class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input) {
    auto ops = vfio_pci::make_mediated(std::make_unique<PciModel>(description(input), record_));
    if (!ops) return;  // a description that the library refuses
    device_ = host_.vfio().register_emulated("device", "devices/device", std::move(*ops));
    caller_.files[7] = Fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    caller_.files[8] = Fd(eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC));
    caller_.containers[3] = host_.vfio().open_container();
    open();
  }
  ~Session() {
    caller_.devices.clear();
    if (device_) host_.vfio().unregister(device_);
    if (!host_.vfio().groups().empty()) std::abort();
  }

  void run() {
    for (int step = 0; device_ && step < 200 && input_.remaining_bytes() > 0; ++step) {
      switch (input_.ConsumeIntegralInRange(0, 7)) {
        case 0:
        case 1:
          access(VFIO_PCI_CONFIG_REGION_INDEX, config_offset());
          break;
        case 2:
          access(input_.ConsumeIntegralInRange<std::uint32_t>(0, 10), offset());
          break;
        case 3:
          set_irqs();
          break;
        case 4:
          hardware();
          break;
        case 5:
          reopen();
          break;
        default:
          ioctl();
      }
    }
  }

 private:
  void open() {
    const auto group = device_->group().open();
    if (!group) std::abort();
    if (!(*group)->set_container(caller_.containers[3])) std::abort();
    if (!caller_.containers[3]->set_iommu(VFIO_TYPE1v2_IOMMU)) std::abort();
    auto file = vfio::GroupFile::get_device(*group, "device");
    if (!file) std::abort();
    caller_.devices[100] = std::move(*file);
  }
  void reopen() {
    caller_.devices.clear();
    open();
  }
  vfio::DeviceOps& ops() { return caller_.devices[100]->ops(); }

  std::uint64_t config_offset() {
    return input_.ConsumeBool() ? input_.ConsumeIntegralInRange<std::uint64_t>(0, 255)
                                : input_.ConsumeIntegralInRange<std::uint64_t>(0, 4100);
  }
  std::uint64_t offset() {
    switch (input_.ConsumeIntegralInRange(0, 2)) {
      case 0:
        return input_.ConsumeIntegralInRange<std::uint64_t>(0, 64);
      case 1:
        return input_.PickValueInArray<std::uint64_t>(
            {0x1000, 0x1ffc, 0x2078, 0x3000, 0x3ffc, 0x10000, 0x3b0, 0x3d0, 0xa0000, 0xbfffe, 198});
      default:
        return input_.ConsumeIntegral<std::uint64_t>();
    }
  }

  void access(std::uint32_t region, std::uint64_t offset) {
    const std::uint64_t position = pci::region_offset(region) + offset;
    auto bytes = input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 24));
    const auto done =
        input_.ConsumeBool() ? ops().read(position, bytes) : ops().write(position, bytes);
    if (done && *done > bytes.size()) std::abort();
    check_kept_bits();
  }

  // The ids and the host's view of BARs are nothing that a client can change.
  void check_kept_bits() {
    std::array<std::byte, 4> ids{};
    if (!ops().read(pci::region_offset(VFIO_PCI_CONFIG_REGION_INDEX), ids)) std::abort();
    if (ids != std::array{std::byte{0xf4}, std::byte{0x1a}, std::byte{0x34}, std::byte{0x12}}) {
      std::abort();
    }
  }

  void set_irqs() {
    struct {
      std::array<std::uint32_t, 5> header;
      std::array<std::int32_t, 8> fds;
    } set{};
    set.header = {sizeof set,
                  input_.PickValueInArray<std::uint32_t>({1, 2, 4}) |
                      input_.PickValueInArray<std::uint32_t>({8, 16, 32, 32, 32}),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 5),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 8),
                  input_.ConsumeIntegralInRange<std::uint32_t>(0, 8)};
    for (auto& fd : set.fds) fd = input_.PickValueInArray<std::int32_t>({-1, 7, 7, 8, 9, -2});
    call(VFIO_DEVICE_SET_IRQS, caller_.put(set));
  }

  void hardware() {
    if (input_.ConsumeBool()) {
      record_.port->raise(input_.ConsumeIntegralInRange(0u, 40u));
    } else {
      record_.port->set_intx(input_.ConsumeBool());
    }
    static_cast<void>(caller_.files[7].get() >= 0 && input_.ConsumeBool() &&
                      eventfd_write(caller_.files[7].get(), 1) == 0);
  }

  void ioctl() {
    const std::uint32_t command = input_.PickValueInArray<std::uint32_t>(
        {VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_GET_IRQ_INFO,
         VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_RESET, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
         VFIO_DEVICE_PCI_HOT_RESET, VFIO_DEVICE_IOEVENTFD, VFIO_DEVICE_FEATURE});
    if (command == VFIO_DEVICE_IOEVENTFD && input_.ConsumeBool()) {
      call(command,
           caller_.put(vfio_device_ioeventfd{
               .argsz = sizeof(vfio_device_ioeventfd),
               .flags = input_.PickValueInArray<std::uint32_t>({1, 2, 4, 8}),
               .offset = pci::region_offset(input_.ConsumeIntegralInRange(0u, 6u)) + offset(),
               .data = input_.ConsumeIntegralInRange<std::uint64_t>(0, 3),
               .fd = input_.PickValueInArray({-1, 7, 8})}));
      return;
    }
    const auto bytes =
        input_.ConsumeBytes<std::byte>(input_.ConsumeIntegralInRange<std::size_t>(0, 64));
    std::ranges::copy(bytes, caller_.arena.begin());
    call(command, ArenaCaller::kBase);
  }
  void call(std::uint32_t command, std::uint64_t arg) {
    static_cast<void>(uapi::device_ioctl(*caller_.devices[100], caller_, command, arg));
  }

  FuzzedDataProvider& input_;
  PciModel::Record record_;
  Host host_;
  std::shared_ptr<vfio::Device> device_;
  ArenaCaller caller_{1 << 12};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool quiet = (spdlog::set_level(spdlog::level::off), true);
  static_cast<void>(quiet);
  FuzzedDataProvider input(data, size);
  Session(input).run();
  return 0;
}
