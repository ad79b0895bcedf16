// The whole device through its ioctls, as a direct function of a host's bus and as a mediated
// device.
#include "vfio_pci/device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <semaphore>

#include "pci/layout.h"
#include "tests/support/arena_caller.h"
#include "tests/support/pci_model.h"
#include "uapi/ioctl.h"
#include "uvfio/host.h"
#include "uvfio/iommu_unit.h"
#include "uvfio/vfio_compat.h"
#include "uvfio/vfio_pci.h"
#include "vfio_pci/driver.h"

namespace uvfio::vfio_pci {
namespace {

using namespace std::chrono_literals;
using testing::ArenaCaller;
using testing::PciModel;

constexpr std::uint64_t kUnmapped = 0x10;
constexpr int kDevice = 100;  // the first descriptor that the caller hands out

// A client with a container.
class Client {
 public:
  explicit Client(vfio::Vfio& vfio) : vfio_(vfio) { caller.containers[3] = vfio.open_container(); }
  ~Client() { close(); }

  // Opens a group as descriptor `fd`, with the container.
  void open_group(unsigned id, int fd) {
    auto group = vfio_.find_group(id)->open();
    ASSERT_TRUE(group);
    caller.groups[fd] = *group;
    ASSERT_EQ(
        uapi::group_ioctl(*group, caller, VFIO_GROUP_SET_CONTAINER, caller.put(std::int32_t{3})),
        0);
    static_cast<void>(
        uapi::container_ioctl(*caller.containers[3], caller, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  }
  Result<int> get_device(int group, const std::string& name) {
    std::memcpy(caller.arena.data(), name.c_str(), name.size() + 1);
    return uapi::group_ioctl(caller.groups[group], caller, VFIO_GROUP_GET_DEVICE_FD,
                             ArenaCaller::kBase);
  }
  void close() {
    caller.devices.clear();
    caller.groups.clear();
  }

  Result<int> ioctl(std::uint32_t command, std::uint64_t arg = 0) {
    return uapi::device_ioctl(*caller.devices.at(device), caller, command, arg);
  }
  template <typename T>
  Result<int> ioctl(std::uint32_t command, const T& argument) {
    return ioctl(command, caller.put(argument));
  }
  vfio_region_info region(std::uint32_t index) {
    EXPECT_EQ(ioctl(VFIO_DEVICE_GET_REGION_INFO,
                    vfio_region_info{.argsz = 1024, .flags = 0, .index = index}),
              0);
    return caller.at<vfio_region_info>();
  }
  vfio_irq_info irq(std::uint32_t index) {
    EXPECT_EQ(ioctl(VFIO_DEVICE_GET_IRQ_INFO,
                    vfio_irq_info{
                        .argsz = sizeof(vfio_irq_info), .flags = 0, .index = index, .count = 0}),
              0);
    return caller.at<vfio_irq_info>();
  }
  vfio::DeviceOps& ops() { return caller.devices.at(device)->ops(); }

  // An access of `width` bytes; minus the errno, or the bytes done.
  int read(std::uint32_t region, std::uint64_t offset, std::span<std::byte> data) {
    const auto done = ops().read(pci::region_offset(region) + offset, data);
    return done ? static_cast<int>(*done) : -value(done.error());
  }
  int write(std::uint32_t region, std::uint64_t offset, std::span<const std::byte> data) {
    const auto done = ops().write(pci::region_offset(region) + offset, data);
    return done ? static_cast<int>(*done) : -value(done.error());
  }
  template <typename T>
  T get(std::uint32_t region, std::uint64_t offset) {
    T value{};
    EXPECT_EQ(read(region, offset, std::as_writable_bytes(std::span(&value, 1))),
              static_cast<int>(sizeof value));
    return value;
  }
  template <typename T>
  void put(std::uint32_t region, std::uint64_t offset, T value) {
    EXPECT_EQ(write(region, offset, std::as_bytes(std::span(&value, 1))),
              static_cast<int>(sizeof value));
  }
  std::uint16_t command() { return get<std::uint16_t>(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND); }
  void set_command(std::uint16_t value) { put(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, value); }

  ArenaCaller caller;
  int device = kDevice;

 private:
  vfio::Vfio& vfio_;
};

// The structs that end in arrays, with one or a few entries.
struct SetEventFd {
  std::uint32_t argsz = 24;
  std::uint32_t flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  std::uint32_t index = 0;
  std::uint32_t start = 0;
  std::uint32_t count = 1;
  std::int32_t fd = -1;
};
static_assert(sizeof(vfio_irq_set) == 20);
struct HotResetInfo {
  std::uint32_t argsz = sizeof(HotResetInfo);
  std::uint32_t flags = ~0u;
  std::uint32_t count = 0;
  vfio_pci_dependent_device devices[4] = {};
};
static_assert(sizeof(vfio_pci_hot_reset_info) == 12);
struct HotReset {
  std::uint32_t argsz = 12;
  std::uint32_t flags = 0;
  std::uint32_t count = 0;
  std::int32_t groups[4] = {};
};
static_assert(sizeof(vfio_pci_hot_reset) == 12);

constexpr std::uint32_t kConfig = VFIO_PCI_CONFIG_REGION_INDEX;
constexpr std::uint32_t kRom = VFIO_PCI_ROM_REGION_INDEX;
constexpr std::uint32_t kVga = VFIO_PCI_VGA_REGION_INDEX;

// One device alone on bus 01, or mediated.
class DeviceTest : public ::testing::TestWithParam<bool> {
 protected:
  DeviceTest() { plug(PciModel::full()); }
  ~DeviceTest() override {
    client_.close();
    unplug();
  }

  // Replaces the device.
  void plug(pci::Description description) {
    client_.close();
    unplug();
    auto model = std::make_unique<PciModel>(std::move(description), record_);
    if (GetParam()) {
      auto device = host_.pci().plug(
          {.address = {.bus = 1}, .group = "", .unit = unit_, .reserved = {}}, std::move(model));
      ASSERT_TRUE(device);
      ASSERT_TRUE((*device)->set_driver_override("vfio-pci"));
      ASSERT_TRUE(host_.pci().drivers_probe((*device)->name()));
      name_ = (*device)->name();
      group_ = (*device)->iommu_group()->id();
    } else {
      auto ops = make_mediated(std::move(model));
      ASSERT_TRUE(ops);
      mediated_ = host_.vfio().register_emulated("mediated", "devices/mediated", std::move(*ops));
      name_ = "mediated";
      group_ = mediated_->group().id();
    }
  }
  void unplug() {
    if (mediated_) host_.vfio().unregister(std::exchange(mediated_, nullptr));
    static_cast<void>(host_.pci().unplug({.bus = 1}));
  }
  void open() {
    client_.open_group(group_, 4);
    client_.caller.next_fd = kDevice;
    ASSERT_EQ(client_.get_device(4, name_), kDevice);
  }
  std::uint8_t capability(std::uint8_t id) {
    for (auto at = client_.get<std::uint8_t>(kConfig, PCI_CAPABILITY_LIST); at != 0;
         at = client_.get<std::uint8_t>(kConfig, at + 1)) {
      if (client_.get<std::uint8_t>(kConfig, at) == id) return at;
    }
    return 0;
  }
  void set_power(unsigned state) {
    const std::uint64_t control = capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    client_.put(kConfig, control, static_cast<std::uint16_t>(state));
  }

  const std::shared_ptr<iommu::Unit> unit_ = std::make_shared<iommu::Unit>(iommu::UnitProperties{});
  Host host_;
  PciModel::Record record_;
  std::shared_ptr<vfio::Device> mediated_;
  std::string name_;
  unsigned group_ = 0;
  Client client_{host_.vfio()};
};
INSTANTIATE_TEST_SUITE_P(DirectAndMediated, DeviceTest, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Direct" : "Mediated"; });

// --- Open and close

TEST_P(DeviceTest, OpenResetsAndLeavesTheDeviceEnabledWithoutBusMaster) {
  const int before = record_.resets;
  open();
  EXPECT_GT(record_.resets, before);
  EXPECT_EQ(client_.command(), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
  client_.set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
  EXPECT_TRUE(record_.bus_master);
  client_.put(0, 0x10, std::uint32_t{7});
  client_.close();
  EXPECT_FALSE(record_.bus_master);
  EXPECT_TRUE(record_.registers.empty()) << "nothing is left for the next user";
  open();
  EXPECT_EQ(client_.command(), PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

TEST_P(DeviceTest, CloseInD3hotEndsInD0) {
  open();
  set_power(3);
  client_.close();
  open();
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u);
}

TEST_P(DeviceTest, DeviceNames) {
  client_.open_group(group_, 4);
  EXPECT_EQ(client_.get_device(4, name_ + "0"), fail(ENODEV));
  EXPECT_EQ(client_.get_device(4, "0000"), fail(ENODEV));
  if (!GetParam()) {
    EXPECT_EQ(client_.get_device(4, name_ + " "), fail(ENODEV)) << "options are vfio-pci's";
    return;
  }
  const std::string token = " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
  EXPECT_EQ(client_.get_device(4, name_ + token), fail(EINVAL)) << "no SR-IOV";
  EXPECT_EQ(client_.get_device(4, name_ + " vf_token=1"), fail(EINVAL));
  EXPECT_EQ(client_.get_device(4, name_ + " other"), fail(EINVAL));
  EXPECT_EQ(client_.get_device(4, name_ + "  "), 100);
}

// --- GET_INFO, REGION_INFO, IRQ_INFO

TEST_P(DeviceTest, Info) {
  open();
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_INFO, kUnmapped), fail(EFAULT));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_INFO, vfio_device_info{.argsz = 15}), fail(EINVAL));
  struct {
    vfio_device_info info;
    std::uint32_t pad[2];
  } info{.info = {.argsz = 16, .cap_offset = 0x55}, .pad = {0x55, 0x55}};
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_INFO, info), 0);
  info = client_.caller.at<decltype(info)>();
  EXPECT_EQ(info.info.flags, std::uint32_t{VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET});
  EXPECT_EQ(info.info.num_regions, 9u);
  EXPECT_EQ(info.info.num_irqs, 5u);
  EXPECT_EQ(info.info.cap_offset, 0x55u) << "not part of what the client knows";
  info.info.argsz = 100;
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_INFO, info), 0);
  info = client_.caller.at<decltype(info)>();
  EXPECT_EQ(info.info.cap_offset, 0u);
  EXPECT_EQ(info.pad[0], 0u);
  EXPECT_EQ(info.pad[1], 0x55u);
}

TEST_P(DeviceTest, RegionInfo) {
  open();
  constexpr std::uint32_t kReadWrite = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_REGION_INFO, kUnmapped), fail(EFAULT));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info{.argsz = 31}),
            fail(EINVAL));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info{.argsz = 32, .index = 9}),
            fail(EINVAL));
  EXPECT_EQ(
      client_.ioctl(VFIO_DEVICE_GET_REGION_INFO, vfio_region_info{.argsz = 32, .index = kVga}),
      fail(EINVAL))
      << "no VGA device";
  const std::array<std::uint64_t, 8> sizes{0x4000, 0, 32, 0, 0x10000, 0, 0, 4096};
  for (std::uint32_t i = 0; i < sizes.size(); ++i) {
    const auto info = client_.region(i);
    EXPECT_EQ(info.size, sizes[i]) << i;
    EXPECT_EQ(info.offset, std::uint64_t{i} << 40) << i;
    EXPECT_EQ(info.flags & kReadWrite, sizes[i] == 0 ? 0 : kReadWrite) << i;
    EXPECT_EQ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) != 0, i == 4) << i;
  }
}

TEST_P(DeviceTest, SparseMmap) {
  open();
  const auto info = client_.region(4);
  ASSERT_NE(info.flags & VFIO_REGION_INFO_FLAG_CAPS, 0u);
  struct Sparse {
    vfio_info_cap_header header;
    std::uint32_t areas;
    std::uint32_t reserved;
    vfio_region_sparse_mmap_area area;
  };
  const auto sparse = client_.caller.at<Sparse>(info.cap_offset);
  EXPECT_EQ(sparse.header.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
  EXPECT_EQ(sparse.header.next, 0u);
  ASSERT_EQ(sparse.areas, 1u);
  EXPECT_EQ(sparse.area.offset, 0x1000u);
  EXPECT_EQ(sparse.area.size, 0x2000u);
}

TEST_P(DeviceTest, WholeBarThatCanBeMappedNeedsNoCapability) {
  auto description = PciModel::full();
  description.bars[4].mappable = {{0, 0x10000}};
  plug(description);
  open();
  EXPECT_EQ(client_.region(4).flags,
            std::uint32_t{VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                          VFIO_REGION_INFO_FLAG_MMAP});
  client_.caller.mmap = false;
  EXPECT_EQ(client_.region(4).flags,
            std::uint32_t{VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE});
}

TEST_P(DeviceTest, IrqInfo) {
  open();
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_IRQ_INFO, kUnmapped), fail(EFAULT));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_IRQ_INFO, vfio_irq_info{.argsz = 15}), fail(EINVAL));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_IRQ_INFO, vfio_irq_info{.argsz = 16, .index = 5}),
            fail(EINVAL));
  constexpr std::uint32_t kEvent = VFIO_IRQ_INFO_EVENTFD;
  const std::array<std::pair<std::uint32_t, std::uint32_t>, 5> expected{
      {{kEvent | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED, 1},
       {kEvent | VFIO_IRQ_INFO_NORESIZE, 4},
       {kEvent, 8},
       {kEvent | VFIO_IRQ_INFO_NORESIZE, 1},
       {kEvent | VFIO_IRQ_INFO_NORESIZE, 1}}};
  for (std::uint32_t i = 0; i < expected.size(); ++i) {
    const auto info = client_.irq(i);
    EXPECT_EQ(info.flags, expected[i].first) << i;
    EXPECT_EQ(info.count, expected[i].second) << i;
  }
}

TEST_P(DeviceTest, InterruptsThatAreNotThere) {
  pci::Description description{.vendor_id = 1, .device_id = 2, .pcie = false, .flr = false};
  plug(description);
  open();
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(client_.irq(i).count, 0u);
    const SetEventFd set{
        .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, .index = i, .count = 0};
    EXPECT_EQ(client_.ioctl(VFIO_DEVICE_SET_IRQS, set), fail(EINVAL)) << "also to turn it off";
  }
  EXPECT_EQ(client_.region(kConfig).size, 256u);
}

// --- read, write, mmap

TEST_P(DeviceTest, BarAccess) {
  open();
  client_.put(0, 0x10, std::uint64_t{0x1122334455667788});
  EXPECT_EQ(record_.last_width, 8u);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0x14), 0x11223344u);
  EXPECT_EQ(client_.get<std::uint8_t>(0, 0x11), 0x77u);
  std::array<std::byte, 16> data{};
  EXPECT_EQ(client_.read(0, 0x3ff8, data), 8) << "shortened";
  EXPECT_EQ(client_.read(0, 0x4000, data), -EINVAL);
  EXPECT_EQ(client_.write(0, 0x4000, data), -EINVAL);
  EXPECT_EQ(client_.read(1, 0, data), -EINVAL) << "the upper half of BAR 0";
  EXPECT_EQ(client_.read(9, 0, data), -EINVAL);
  EXPECT_EQ(client_.write(9, 0, data), -EINVAL);
  EXPECT_EQ(client_.read(9, 0, {}), 0) << "nothing, not even a check";
  EXPECT_EQ(client_.read(2, 30, data), 2);
  client_.put(2, 1, std::uint8_t{5});
  EXPECT_EQ(client_.get<std::uint8_t>(2, 1), 5u);
}

TEST_P(DeviceTest, MsixTableCannotBeReached) {
  open();
  for (std::uint64_t offset = 0x2000; offset < 0x2080; offset += 4) {
    EXPECT_EQ(client_.get<std::uint32_t>(0, offset), 0xffff'ffffu);
    client_.put(0, offset, std::uint32_t{0});
    EXPECT_EQ(client_.get<std::uint32_t>(0, offset), 0xffff'ffffu);
  }
  std::array<std::byte, 12> data{};
  client_.put(0, 0x1ffc, std::uint32_t{0x01010101});
  client_.put(0, 0x2080, std::uint32_t{0x02020202});
  EXPECT_EQ(client_.read(0, 0x1ffc, data), 12);
  EXPECT_EQ(data[3], std::byte{1});
  EXPECT_EQ(data[4], std::byte{0xff});
  EXPECT_EQ(client_.read(0, 0x2078, data), 12);
  EXPECT_EQ(data[7], std::byte{0xff});
  EXPECT_EQ(data[8], std::byte{2});
}

TEST_P(DeviceTest, NoAccessWithoutDecoding) {
  open();
  client_.put(0, 0, std::uint32_t{1});
  client_.set_command(PCI_COMMAND_IO);
  std::array<std::byte, 4> data{};
  EXPECT_EQ(client_.read(0, 0, data), -EIO);
  EXPECT_EQ(client_.write(0, 0, data), -EIO);
  EXPECT_EQ(client_.read(4, 0x1000, data), -EIO);
  EXPECT_EQ(client_.read(0, 0x2000, data), 4) << "the MSI-X table is not accessed at all";
  EXPECT_EQ(client_.read(2, 0, data), 4) << "I/O is no memory";
  client_.set_command(PCI_COMMAND_MEMORY);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 1u);
  EXPECT_EQ(client_.get<std::uint32_t>(2, 0), 0xffff'ffffu);
}

TEST_P(DeviceTest, D3hotCutsMemoryOffAndTheWayBackKeepsTheConfiguration) {
  open();
  client_.set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  client_.put(0, 0, std::uint32_t{1});
  set_power(1);
  set_power(2);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 1u) << "no such states";
  set_power(3);
  std::array<std::byte, 4> data{};
  EXPECT_EQ(client_.read(0, 0, data), -EIO);
  EXPECT_FALSE(record_.bus_master);
  set_power(2);
  EXPECT_EQ(client_.read(0, 0, data), -EIO) << "only D0 leads out";
  set_power(0);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u) << "it was reset";
  EXPECT_EQ(client_.command(), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  EXPECT_TRUE(record_.bus_master);
}

TEST_P(DeviceTest, MessagesSurviveD3hot) {
  open();
  client_.set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  const EventFd event = *EventFd::create();
  client_.caller.files[7] = Fd(dup(event.get()));
  ASSERT_EQ(client_.ioctl(VFIO_DEVICE_SET_IRQS,
                          SetEventFd{.index = VFIO_PCI_MSIX_IRQ_INDEX, .start = 2, .fd = 7}),
            0);
  record_.port->raise(2);
  EXPECT_TRUE(event.consume());
  set_power(3);
  record_.port->raise(2);
  EXPECT_FALSE(event.consume());
  set_power(0);
  record_.port->raise(2);
  EXPECT_TRUE(event.consume());
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_RESET), 0);
  record_.port->raise(2);
  EXPECT_TRUE(event.consume()) << "interrupts stay configured";
}

TEST_P(DeviceTest, ConfigAccess) {
  open();
  std::array<std::byte, 8> data{};
  EXPECT_EQ(client_.read(kConfig, 4092, data), -EFAULT);
  EXPECT_EQ(client_.write(kConfig, 4096, data), -EFAULT);
  EXPECT_EQ(client_.read(kConfig, 1, data), 8);
  EXPECT_EQ(client_.get<std::uint32_t>(kConfig, PCI_VENDOR_ID), 0x12341af4u);
  client_.put(kConfig, PCI_BASE_ADDRESS_4, 0xffff'ffffu);
  EXPECT_EQ(client_.get<std::uint32_t>(kConfig, PCI_BASE_ADDRESS_4), 0xffff'0000u);
  client_.put(kConfig, PCI_BASE_ADDRESS_0, 0xffff'ffffu);
  EXPECT_EQ(client_.get<std::uint32_t>(kConfig, PCI_BASE_ADDRESS_0), 0xffff'c00cu);
}

TEST_P(DeviceTest, MmapShowsWhatReadsSee) {
  open();
  const Fd* backing = client_.ops().mmap_backing();
  ASSERT_NE(backing, nullptr);
  void* mapped = mmap(nullptr, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED, backing->get(),
                      static_cast<off_t>((std::uint64_t{4} << 40) + 0x1000));
  ASSERT_NE(mapped, MAP_FAILED);
  auto* words = static_cast<volatile std::uint32_t*>(mapped);
  words[3] = 77;
  EXPECT_EQ(client_.get<std::uint32_t>(4, 0x100c), 77u);
  client_.put(4, 0x1010, std::uint32_t{78});
  EXPECT_EQ(words[4], 78u);
  munmap(mapped, 0x2000);
}

// An image of 512 bytes behind the headers that say so.
std::vector<std::byte> rom_image() {
  std::vector<std::byte> rom(3000, std::byte{0x11});
  const auto put = [&](std::size_t at, std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes) rom[at++] = std::byte(byte);
  };
  put(0, {0x55, 0xaa});
  put(24, {0x40, 0});
  put(0x40, {'P', 'C', 'I', 'R'});
  put(0x40 + 16, {2, 0});
  put(0x40 + 21, {0x80});
  return rom;
}

TEST(RomImage, SizeComesFromTheHeaders) {
  auto rom = rom_image();
  EXPECT_EQ(rom_image_size(rom), 1024u);
  EXPECT_EQ(rom_image_size(std::span(rom).first(700)), 700u) << "cut short";
  rom[0x40 + 21] = std::byte{0};
  EXPECT_EQ(rom_image_size(rom), 1024u) << "another image was promised";
  rom[0x40 + 16] = std::byte{0};
  EXPECT_EQ(rom_image_size(rom), 0u);
  rom[0x40] = std::byte{0};
  EXPECT_EQ(rom_image_size(rom), 0u);
  EXPECT_EQ(rom_image_size({}), 0u);
  EXPECT_EQ(rom_image_size(std::span(rom).first(1)), 0u);
}

TEST_P(DeviceTest, Rom) {
  auto description = PciModel::full();
  description.rom = rom_image();
  plug(description);
  open();
  EXPECT_EQ(client_.region(kRom).size, 4096u) << "of the BAR";
  EXPECT_EQ(client_.region(kRom).flags, std::uint32_t{VFIO_REGION_INFO_FLAG_READ});
  std::array<std::byte, 32> data{};
  EXPECT_EQ(client_.read(kRom, 0, data), 32);
  EXPECT_EQ(data[1], std::byte{0xaa});
  EXPECT_EQ(client_.read(kRom, 1008, data), 32);
  EXPECT_EQ(data[15], std::byte{0x11});
  EXPECT_EQ(data[16], std::byte{0xff}) << "behind the image";
  EXPECT_EQ(client_.read(kRom, 4090, data), 6);
  EXPECT_EQ(client_.read(kRom, 4096, data), -EINVAL);
  EXPECT_EQ(client_.write(kRom, 0, data), -EINVAL);
  client_.set_command(0);
  EXPECT_EQ(client_.read(kRom, 0, data), -EIO);
  EXPECT_EQ(client_.read(kRom, 2048, data), 32) << "nothing is accessed there";
  client_.put(kConfig, PCI_ROM_ADDRESS, 0xffff'ffffu);
  EXPECT_EQ(client_.get<std::uint32_t>(kConfig, PCI_ROM_ADDRESS), 0xffff'f001u);
}

TEST_P(DeviceTest, NoRom) {
  open();
  std::array<std::byte, 4> data{};
  EXPECT_EQ(client_.read(kRom, 0, data), -EINVAL);
  EXPECT_EQ(client_.write(kRom, 0, data), -EINVAL);
  auto description = PciModel::full();
  description.rom = std::vector<std::byte>(100);
  plug(description);
  open();
  EXPECT_EQ(client_.region(kRom).size, 0u) << "no valid image";
}

TEST_P(DeviceTest, Vga) {
  auto description = PciModel::full();
  description.class_code = 0x030000;
  description.vga = true;
  plug(description);
  open();
  EXPECT_EQ(client_.region(kVga).size, 0xc0000u);
  std::array<std::byte, 16> data{};
  const std::array<std::pair<std::uint64_t, int>, 10> cases{{{0, -EINVAL},
                                                             {0x3af, -EINVAL},
                                                             {0x3b0, 12},
                                                             {0x3bb, 1},
                                                             {0x3bc, -EINVAL},
                                                             {0x3c0, 16},
                                                             {0x3df, 1},
                                                             {0x9ffff, -EINVAL},
                                                             {0xbfff8, 8},
                                                             {0xc0000, -EINVAL}}};
  for (const auto& [offset, result] : cases) {
    EXPECT_EQ(client_.read(kVga, offset, data), result) << std::hex << offset;
    EXPECT_EQ(client_.write(kVga, offset, data), result) << std::hex << offset;
  }
  client_.put(kVga, 0xa0000, std::uint64_t{1});
  EXPECT_EQ(record_.last_width, 4u) << "not wider";
  client_.set_command(0);
  EXPECT_EQ(client_.get<std::uint32_t>(kVga, 0xa0000), 0xffffffffu) << "nobody answers";
  EXPECT_EQ(client_.get<std::uint8_t>(kVga, 0x3c0), 0xffu);
}

TEST_P(DeviceTest, NoVga) {
  open();
  std::array<std::byte, 4> data{};
  EXPECT_EQ(client_.read(kVga, 0xa0000, data), -EINVAL);
}

// --- Resets

TEST_P(DeviceTest, ResetKeepsTheConfiguration) {
  open();
  client_.set_command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  client_.put(kConfig, PCI_BASE_ADDRESS_4, 0xabcd'0000u);
  client_.put(0, 0, std::uint32_t{1});
  const int before = record_.resets;
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_RESET), 0);
  EXPECT_EQ(record_.resets, before + 1);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u);
  EXPECT_EQ(client_.command(), PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  EXPECT_EQ(client_.get<std::uint32_t>(kConfig, PCI_BASE_ADDRESS_4), 0xabcd'0000u);
  set_power(3);
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_RESET), 0);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u) << "in D0";
}

TEST_P(DeviceTest, FunctionLevelResetByTheClient) {
  open();
  client_.put(0, 0, std::uint32_t{1});
  const std::uint64_t control = capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL;
  const auto old = client_.get<std::uint16_t>(kConfig, control);
  client_.put(kConfig, control, static_cast<std::uint16_t>(old | PCI_EXP_DEVCTL_BCR_FLR));
  EXPECT_EQ(client_.get<std::uint16_t>(kConfig, control), old);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u);
}

TEST_P(DeviceTest, DeviceThatCannotReset) {
  auto description = PciModel::full();
  description.flr = false;
  description.power_management = false;
  plug(description);
  open();
  const bool by_bus = GetParam();  // alone on its bus
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_GET_INFO, vfio_device_info{.argsz = 16}), 0);
  EXPECT_EQ((client_.caller.at<vfio_device_info>().flags & VFIO_DEVICE_FLAGS_RESET) != 0, by_bus);
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_RESET), by_bus ? Result<int>(0) : fail(EINVAL));
}

// --- IOEVENTFD

vfio_device_ioeventfd ioeventfd(std::uint64_t offset, std::uint64_t data, std::uint32_t size,
                                int fd) {
  return {.argsz = sizeof(vfio_device_ioeventfd),
          .flags = size,
          .offset = offset,
          .data = data,
          .fd = fd};
}

TEST_P(DeviceTest, IoEventFdErrors) {
  open();
  client_.caller.files[7] = Fd(eventfd(0, EFD_NONBLOCK));
  client_.caller.files[8] = Fd(::open("/dev/null", O_RDWR));
  const auto set = [&](const vfio_device_ioeventfd& request) {
    return client_.ioctl(VFIO_DEVICE_IOEVENTFD, request);
  };
  constexpr std::uint64_t kBar1 = std::uint64_t{1} << 40;
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, kUnmapped), fail(EFAULT));
  auto request = ioeventfd(0, 0, 4, 7);
  request.argsz = 27;
  EXPECT_EQ(set(request), fail(EINVAL));
  EXPECT_EQ(set(ioeventfd(0, 0, 16, 7)), fail(EINVAL)) << "unknown flag";
  EXPECT_EQ(set(ioeventfd(0, 0, 0, 7)), fail(EINVAL));
  EXPECT_EQ(set(ioeventfd(0, 0, 3, 7)), fail(EINVAL)) << "two sizes";
  EXPECT_EQ(set(ioeventfd(0, 0, 4, -2)), fail(EINVAL));
  EXPECT_EQ(set(ioeventfd(6 * kBar1, 0, 4, 7)), fail(EINVAL)) << "the ROM";
  EXPECT_EQ(set(ioeventfd(7 * kBar1, 0, 4, 7)), fail(EINVAL)) << "configuration";
  EXPECT_EQ(set(ioeventfd(kBar1, 0, 4, 7)), fail(EINVAL)) << "no BAR 1";
  EXPECT_EQ(set(ioeventfd(0x3ffd, 0, 4, 7)), fail(EINVAL)) << "leaves the BAR";
  EXPECT_EQ(set(ioeventfd(0x1ffe, 0, 4, 7)), fail(EINVAL)) << "touches the MSI-X table";
  EXPECT_EQ(set(ioeventfd(0x207f, 0, 1, 7)), fail(EINVAL));
  EXPECT_EQ(set(ioeventfd(0, 0, 4, -1)), fail(ENODEV));
  EXPECT_EQ(set(ioeventfd(0, 0, 4, 99)), fail(EBADF));
  EXPECT_EQ(set(ioeventfd(0, 0, 4, 8)), fail(EINVAL));
  EXPECT_EQ(set(ioeventfd(0x1ffc, 0, 4, 7)), 0);
  EXPECT_EQ(set(ioeventfd(0x2080, 0, 8, 7)), 0);
  EXPECT_EQ(set(ioeventfd(0x2080, 0, 8, 99)), fail(EEXIST)) << "before the descriptor";
  EXPECT_EQ(set(ioeventfd(0x2080, 1, 8, 7)), 0) << "other data";
  EXPECT_EQ(set(ioeventfd(0x2080, 0, 8, -1)), 0);
  EXPECT_EQ(set(ioeventfd(0x2080, 0, 8, -1)), fail(ENODEV));
}

TEST_P(DeviceTest, IoEventFdsAreLimited) {
  open();
  client_.caller.files[7] = Fd(eventfd(0, EFD_NONBLOCK));
  for (unsigned i = 0; i < 1000; ++i) {
    ASSERT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, ioeventfd(0, i, 4, 7)), 0);
  }
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, ioeventfd(0, 1000, 4, 7)), fail(ENOSPC));
}

TEST_P(DeviceTest, IoEventFdWrites) {
  open();
  std::binary_semaphore written(0);
  record_.on_write = [&] { written.release(); };
  const EventFd event = *EventFd::create();
  client_.caller.files[7] = Fd(dup(event.get()));
  ASSERT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, ioeventfd(0x100, 0x12345678, 4, 7)), 0);
  event.signal();
  ASSERT_TRUE(written.try_acquire_for(10s));
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0x100), 0x12345678u);
  client_.set_command(0);
  ASSERT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, ioeventfd(0x100, 0x12345678, 4, -1)), 0);
  event.signal();
  ASSERT_EQ(client_.ioctl(VFIO_DEVICE_IOEVENTFD, ioeventfd(0x200, 1, 4, 7)), 0);
  client_.set_command(PCI_COMMAND_MEMORY);
  EXPECT_EQ(client_.get<std::uint32_t>(0, 0x200), 0u) << "dropped while not decoded";
  client_.close();
  record_.on_write = nullptr;
  event.signal();
  EXPECT_TRUE(event.consume()) << "nobody listens any more";
}

// --- Features

struct Feature {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::int32_t fd;
  std::uint32_t reserved;
};

TEST_P(DeviceTest, LowPower) {
  open();
  const EventFd event = *EventFd::create();
  client_.caller.files[7] = Fd(dup(event.get()));
  client_.caller.files[8] = Fd(::open("/dev/null", O_RDWR));
  constexpr std::uint32_t kEntry = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY;
  constexpr std::uint32_t kWakeup = VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
  constexpr std::uint32_t kExit = VFIO_DEVICE_FEATURE_LOW_POWER_EXIT;
  constexpr std::uint32_t kSet = VFIO_DEVICE_FEATURE_SET;
  const auto feature = [&](std::uint32_t flags, std::uint32_t size = 8, int fd = 0) {
    return client_.ioctl(VFIO_DEVICE_FEATURE,
                         Feature{.argsz = size, .flags = flags, .fd = fd, .reserved = 0});
  };
  for (const std::uint32_t each : {kEntry, kWakeup, kExit}) {
    EXPECT_EQ(feature(each | kSet | VFIO_DEVICE_FEATURE_PROBE), 0);
    EXPECT_EQ(feature(each | VFIO_DEVICE_FEATURE_GET), fail(EINVAL));
    EXPECT_EQ(feature(each), fail(EINVAL));
  }
  EXPECT_EQ(feature(kExit | kSet), 0) << "never entered";
  EXPECT_EQ(feature(kEntry | kSet), 0);
  EXPECT_EQ(feature(kEntry | kSet), fail(EINVAL));
  EXPECT_EQ(feature(kWakeup | kSet, 16, 7), fail(EINVAL));
  EXPECT_EQ(feature(kExit | kSet), 0);
  EXPECT_EQ(feature(kWakeup | kSet, 15, 7), fail(EINVAL));
  EXPECT_EQ(feature(kWakeup | kSet, 16, -1), fail(EINVAL));
  EXPECT_EQ(feature(kWakeup | kSet, 16, 99), fail(EBADF));
  EXPECT_EQ(feature(kWakeup | kSet, 16, 8), fail(EINVAL));
  EXPECT_EQ(feature(kWakeup | kSet, 16, 7), 0);
  EXPECT_FALSE(event.consume());
  std::array<std::byte, 4> data{};
  EXPECT_EQ(client_.read(VFIO_PCI_NUM_REGIONS, 0, data), -EINVAL);
  EXPECT_EQ(client_.write(VFIO_PCI_NUM_REGIONS, 0, data), -EINVAL);
  EXPECT_FALSE(event.consume()) << "no region, no access";
  EXPECT_EQ(client_.get<std::uint16_t>(kConfig, PCI_VENDOR_ID), 0x1af4);
  EXPECT_TRUE(event.consume()) << "an access wakes it";
  EXPECT_EQ(feature(kWakeup | kSet, 16, 7), 0);
  EXPECT_EQ(feature(kWakeup | kSet, 16, 7), 0) << "as any ioctl does";
  EXPECT_TRUE(event.consume());
  EXPECT_EQ(feature(kExit | kSet), 0);
  EXPECT_TRUE(event.consume());
}

// It is suspended in D0, and its client finds it there.
TEST_P(DeviceTest, LowPowerEndsD3hot) {
  open();
  client_.set_command(PCI_COMMAND_MEMORY);
  const auto feature = [&](std::uint32_t which) {
    return client_.ioctl(
        VFIO_DEVICE_FEATURE,
        Feature{.argsz = 8, .flags = which | VFIO_DEVICE_FEATURE_SET, .fd = 0, .reserved = 0});
  };
  const auto state = [&] {
    return client_.get<std::uint16_t>(kConfig, capability(PCI_CAP_ID_PM) + PCI_PM_CTRL) &
           PCI_PM_CTRL_STATE_MASK;
  };
  set_power(3);
  ASSERT_EQ(state(), 3);
  EXPECT_EQ(feature(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY), 0);
  EXPECT_EQ(state(), 0);
  set_power(3);
  EXPECT_EQ(state(), 0) << "suspended again after the access";
  EXPECT_EQ(feature(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT), 0);
  EXPECT_EQ(state(), 0);
  EXPECT_EQ(client_.get<std::uint16_t>(kConfig, PCI_COMMAND) & PCI_COMMAND_MEMORY,
            PCI_COMMAND_MEMORY);
  set_power(3);
  EXPECT_EQ(state(), 3);
}

TEST_P(DeviceTest, FeaturesThatNoDeviceHereHas) {
  open();
  const auto probe = [&](std::uint32_t feature) {
    return client_.ioctl(
        VFIO_DEVICE_FEATURE,
        Feature{.argsz = 8, .flags = feature | VFIO_DEVICE_FEATURE_PROBE, .fd = 0, .reserved = 0});
  };
  EXPECT_EQ(probe(VFIO_DEVICE_FEATURE_PCI_VF_TOKEN), fail(ENOTTY));
  EXPECT_EQ(probe(VFIO_DEVICE_FEATURE_MIGRATION), fail(ENOTTY));
  EXPECT_EQ(probe(VFIO_DEVICE_FEATURE_BUS_MASTER), fail(ENOTTY));
  EXPECT_EQ(probe(VFIO_DEVICE_FEATURE_DMA_BUF), fail(EOPNOTSUPP));
  EXPECT_EQ(probe(VFIO_DEVICE_FEATURE_ZPCI_ERROR), fail(ENOTTY));
}

TEST_P(DeviceTest, UnknownIoctl) {
  open();
  EXPECT_EQ(client_.ioctl(0x1234), fail(ENOTTY));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_QUERY_GFX_PLANE), fail(ENOTTY));
}

// --- Hot reset

TEST_P(DeviceTest, HotResetOfADeviceAlone) {
  open();
  constexpr std::uint32_t kGetInfo = VFIO_DEVICE_GET_PCI_HOT_RESET_INFO;
  EXPECT_EQ(client_.ioctl(kGetInfo, kUnmapped), fail(EFAULT));
  EXPECT_EQ(client_.ioctl(kGetInfo, HotResetInfo{.argsz = 11}), fail(EINVAL));
  if (!GetParam()) {
    EXPECT_EQ(client_.ioctl(kGetInfo, HotResetInfo{.argsz = 12}), fail(ENODEV));
    EXPECT_EQ(client_.ioctl(VFIO_DEVICE_PCI_HOT_RESET, HotReset{.argsz = 12, .count = 1}),
              fail(ENODEV));
    return;
  }
  EXPECT_EQ(client_.ioctl(kGetInfo, HotResetInfo{.argsz = 19}), fail(ENOSPC));
  EXPECT_EQ(client_.caller.at<HotResetInfo>().count, 1u);
  EXPECT_EQ(client_.ioctl(kGetInfo, HotResetInfo{.argsz = 20}), 0);
  const auto info = client_.caller.at<HotResetInfo>();
  EXPECT_EQ(info.flags, 0u);
  ASSERT_EQ(info.count, 1u);
  EXPECT_EQ(info.devices[0].group_id, group_);
  EXPECT_EQ(info.devices[0].bus, 1u);
  EXPECT_EQ(info.devices[0].devfn, 0u);
}

// Two functions of one slot in one group, one more of the same bus in another.
class HotResetTest : public ::testing::Test {
 protected:
  HotResetTest() {
    for (unsigned i = 0; i < 3; ++i) {
      const pci::Address address{.bus = 1,
                                 .device = std::uint8_t(i == 2 ? 1 : 0),
                                 .function = std::uint8_t(i == 1 ? 1 : 0)};
      auto description = PciModel::full();
      description.flr = flr_;
      description.power_management = flr_;
      devices_[i] =
          *host_.pci().plug({.address = address, .group = "", .unit = unit_, .reserved = {}},
                            std::make_unique<PciModel>(std::move(description), records_[i]));
      EXPECT_TRUE(devices_[i]->set_driver_override("vfio-pci"));
      EXPECT_TRUE(host_.pci().drivers_probe(devices_[i]->name()));
    }
    client_.open_group(devices_[0]->iommu_group()->id(), 10);
    client_.open_group(devices_[2]->iommu_group()->id(), 12);
  }
  ~HotResetTest() override { client_.close(); }

  void open_all() {
    for (unsigned i = 0; i < 3; ++i) {
      ASSERT_EQ(client_.get_device(i == 2 ? 12 : 10, devices_[i]->name()),
                kDevice + static_cast<int>(i));
    }
  }
  Result<int> hot_reset(std::vector<std::int32_t> groups, std::uint32_t argsz = 12) {
    HotReset request{.argsz = argsz, .count = static_cast<std::uint32_t>(groups.size())};
    std::ranges::copy(groups, request.groups);
    return client_.ioctl(VFIO_DEVICE_PCI_HOT_RESET, request);
  }
  std::array<int, 3> resets() {
    return {records_[0].resets, records_[1].resets, records_[2].resets};
  }

  const bool flr_ = std::string(::testing::UnitTest::GetInstance()->current_test_info()->name())
                        .find("WithoutFlr") == std::string::npos;
  const std::shared_ptr<iommu::Unit> unit_ = std::make_shared<iommu::Unit>(iommu::UnitProperties{});
  Host host_;
  std::array<PciModel::Record, 3> records_;
  std::array<std::shared_ptr<pci::Device>, 3> devices_;
  Client client_{host_.vfio()};
};

TEST_F(HotResetTest, Info) {
  open_all();
  ASSERT_EQ(client_.ioctl(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, HotResetInfo{}), 0);
  const auto info = client_.caller.at<HotResetInfo>();
  ASSERT_EQ(info.count, 3u);
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(info.devices[i].group_id, devices_[i]->iommu_group()->id());
    EXPECT_EQ(info.devices[i].devfn, (std::array{0x00, 0x01, 0x08})[i]);
  }
}

TEST_F(HotResetTest, Errors) {
  open_all();
  client_.caller.files[7] = Fd(eventfd(0, 0));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_PCI_HOT_RESET, kUnmapped), fail(EFAULT));
  EXPECT_EQ(hot_reset({10, 12}, 11), fail(EINVAL));
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_PCI_HOT_RESET, HotReset{.argsz = 12, .flags = 1, .count = 1}),
            fail(EINVAL));
  EXPECT_EQ(hot_reset({}), fail(EINVAL)) << "the cdev's way";
  EXPECT_EQ(hot_reset({10, 12, 10, 10}), fail(EINVAL)) << "more than there are devices";
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_PCI_HOT_RESET,
                          client_.caller.put(std::array<std::uint32_t, 3>{12, 0, 3},
                                             client_.caller.arena.size() - 12)),
            fail(EFAULT));
  EXPECT_EQ(hot_reset({10, 99}), fail(EBADF));
  EXPECT_EQ(hot_reset({10, 7}), fail(EINVAL)) << "no group";
  EXPECT_EQ(hot_reset({10, 3}), fail(EINVAL)) << "a container";
  const auto before = resets();
  EXPECT_EQ(hot_reset({10}), fail(EINVAL)) << "the other group is affected";
  EXPECT_EQ(hot_reset({12}), fail(EINVAL));
  EXPECT_EQ(resets(), before);
}

TEST_F(HotResetTest, ResetsAllFunctionsOfTheBusAndKeepsTheirConfiguration) {
  open_all();
  for (client_.device = kDevice; client_.device < kDevice + 3; ++client_.device) {
    client_.set_command(PCI_COMMAND_MEMORY);
    client_.put(0, 0, std::uint32_t{1});
  }
  client_.device = kDevice;
  const auto before = resets();
  EXPECT_EQ(hot_reset({12, 10}), 0);
  EXPECT_EQ(resets(), (std::array{before[0] + 1, before[1] + 1, before[2] + 1}));
  for (client_.device = kDevice; client_.device < kDevice + 3; ++client_.device) {
    EXPECT_EQ(client_.get<std::uint32_t>(0, 0), 0u);
    EXPECT_EQ(client_.command(), PCI_COMMAND_MEMORY);
  }
}

TEST_F(HotResetTest, DevicesThatAreNotOpenMayBeReset) {
  ASSERT_EQ(client_.get_device(10, devices_[0]->name()), kDevice);
  EXPECT_EQ(hot_reset({10, 12}), 0);
}

TEST_F(HotResetTest, FunctionThatIsNotBoundForbidsIt) {
  ASSERT_EQ(client_.get_device(10, devices_[0]->name()), kDevice);
  ASSERT_TRUE(host_.pci().unbind(*host_.pci().find_driver("vfio-pci"), devices_[1]->name()));
  EXPECT_EQ(hot_reset({10, 12}), fail(EINVAL));
}

TEST_F(HotResetTest, WithoutFlrTheLastCloseResetsTheBus) {
  open_all();
  client_.device = kDevice;
  EXPECT_EQ(client_.ioctl(VFIO_DEVICE_RESET), fail(EINVAL)) << "not alone, so there is no way";
  client_.caller.devices.erase(kDevice);
  client_.caller.devices.erase(kDevice + 2);
  const auto before = resets();
  client_.caller.devices.erase(kDevice + 1);
  EXPECT_GT(resets()[0], before[0]) << "reset now that nobody uses the bus";
  EXPECT_GT(resets()[2], before[2]);
}

// --- Hot unplug

TEST_F(HotResetTest, RequestReachesTheClient) {
  ASSERT_EQ(client_.get_device(12, devices_[2]->name()), kDevice);
  const EventFd event = *EventFd::create();
  client_.caller.files[7] = Fd(dup(event.get()));
  ASSERT_EQ(
      client_.ioctl(VFIO_DEVICE_SET_IRQS, SetEventFd{.index = VFIO_PCI_REQ_IRQ_INDEX, .fd = 7}), 0);
  client_.ops().request(0);
  EXPECT_TRUE(event.consume());
}

}  // namespace
}  // namespace uvfio::vfio_pci
