#include "uvfio/vfio.h"

#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <thread>

#include "iommu/type1/type1.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_device.h"

namespace uvfio::vfio {
namespace {

using testing::FakeDevice;

class VfioTest : public ::testing::Test {
 protected:
  VfioTest() { vfio_.register_iommu_driver(std::make_unique<iommu::type1::Type1Driver>()); }

  std::shared_ptr<Device> add(const std::string& name) {
    return vfio_.register_emulated(name, "devices/" + name, std::make_unique<FakeDevice>(record_));
  }
  iommu::type1::Type1& type1(Container& container) {
    return dynamic_cast<iommu::type1::Type1&>(*container.iommu());
  }

  FakeDevice::Record record_;
  Vfio vfio_{7};
};

TEST_F(VfioTest, GroupsComeAndGoWithTheirDevices) {
  const auto first = add("first");
  const auto second = add("second");
  EXPECT_EQ(first->group().id(), 7u);
  EXPECT_EQ(second->group().node_name(), "8");
  const auto group = vfio_.find_group(7);
  ASSERT_TRUE(group);
  vfio_.unregister(first);
  EXPECT_EQ(vfio_.find_group(7), nullptr);
  EXPECT_EQ(group->open().error(), Errno{ENODEV});
  EXPECT_EQ(add("third")->group().id(), 7u) << "the lowest free number";
  vfio_.unregister(second);
}

TEST_F(VfioTest, ContainerStates) {
  const auto device = add("a");
  const auto container = vfio_.open_container();
  EXPECT_EQ(container->check_extension(VFIO_TYPE1v2_IOMMU), 1);
  EXPECT_EQ(container->check_extension(VFIO_DMA_CC_IOMMU), 0);
  EXPECT_EQ(container->set_iommu(VFIO_TYPE1_IOMMU), fail(EINVAL)) << "no group";
  auto group = *device->group().open();
  EXPECT_EQ(device->group().open().error(), Errno{EBUSY});
  EXPECT_EQ(*group->status(), std::uint32_t{VFIO_GROUP_FLAGS_VIABLE});
  EXPECT_EQ(group->unset_container(), fail(EINVAL));
  EXPECT_EQ(group->set_container(nullptr), fail(EBADFD));
  ASSERT_TRUE(group->set_container(container));
  EXPECT_EQ(*group->status(),
            std::uint32_t{VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET});
  EXPECT_EQ(group->set_container(container), fail(EINVAL));
  EXPECT_EQ(group->set_container(nullptr), fail(EINVAL));
  EXPECT_EQ(GroupFile::get_device(group, "a").error(), Errno{EINVAL}) << "no IOMMU yet";
  EXPECT_EQ(container->set_iommu(6), fail(ENODEV));
  EXPECT_EQ(container->iommu(), nullptr);
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  EXPECT_EQ(container->set_iommu(VFIO_TYPE1v2_IOMMU), fail(EINVAL));
  EXPECT_EQ(container->check_extension(VFIO_DMA_CC_IOMMU), 1);
  ASSERT_TRUE(group->unset_container());
  EXPECT_EQ(container->iommu(), nullptr) << "the last group takes the IOMMU with it";
  group.reset();
  EXPECT_TRUE(device->group().open());
  vfio_.unregister(device);
}

TEST_F(VfioTest, DevicesOpenOnceAndCloseOnce) {
  const auto device = add("a");
  const auto container = vfio_.open_container();
  auto group = *device->group().open();
  EXPECT_EQ(GroupFile::get_device(group, "b").error(), Errno{ENODEV});
  EXPECT_EQ(GroupFile::get_device(group, "a").error(), Errno{EINVAL});
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  record_.open_result = fail(EIO);
  EXPECT_EQ(GroupFile::get_device(group, "a").error(), Errno{EIO});
  record_.open_result = {};
  auto first = *GroupFile::get_device(group, "a");
  auto second = *GroupFile::get_device(group, "a");
  EXPECT_EQ(record_.opened, 1);
  EXPECT_EQ(group->unset_container(), fail(EBUSY));
  first.reset();
  EXPECT_EQ(record_.closed, 0);
  group.reset();  // the device file keeps the group open
  EXPECT_EQ(device->group().open().error(), Errno{EBUSY});
  EXPECT_NE(container->iommu(), nullptr);
  second.reset();
  EXPECT_EQ(record_.closed, 1);
  EXPECT_EQ(container->iommu(), nullptr);
  EXPECT_TRUE(device->group().open());
  vfio_.unregister(device);
}

TEST_F(VfioTest, MappingsLiveAsLongAsAGroupHoldsTheContainer) {
  const auto first = add("a");
  const auto second = add("b");
  auto container = vfio_.open_container();
  auto group = *first->group().open();
  auto other = *second->group().open();
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(other->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  const auto iommu = container->iommu();
  const auto space = std::make_shared<testing::FakeAddressSpace>(0, 0x1000);
  ASSERT_TRUE(
      type1(*container).map({.iova = 0, .vaddr = 0, .size = 0x1000, .flags = 1}, {.space = space}));
  const std::weak_ptr<Container> weak = container;
  container.reset();
  group.reset();
  EXPECT_FALSE(weak.expired());
  EXPECT_EQ(dynamic_cast<iommu::type1::Type1&>(*iommu).usage().mappings, 1u);
  other.reset();
  EXPECT_TRUE(weak.expired());
  EXPECT_EQ(dynamic_cast<iommu::type1::Type1&>(*iommu).usage().mappings, 0u);
}

TEST_F(VfioTest, RealGroupsNeedDmaOwnership) {
  const auto iommu_group =
      std::make_shared<iommu::IommuGroup>(vfio_.allocate_group_id(), iommu::GroupType::real);
  const auto device =
      vfio_.register_real("pci", "devices/pci", iommu_group, std::make_unique<FakeDevice>(record_));
  ASSERT_TRUE(iommu_group->bind_host_driver());
  auto group = *device->group().open();
  const auto container = vfio_.open_container();
  EXPECT_EQ(*group->status(), 0u) << "not viable";
  EXPECT_EQ(group->set_container(container), fail(EPERM));
  iommu_group->unbind_host_driver();
  EXPECT_EQ(*group->status(), std::uint32_t{VFIO_GROUP_FLAGS_VIABLE});
  ASSERT_TRUE(group->set_container(container));
  EXPECT_EQ(iommu_group->bind_host_driver(), fail(EBUSY));
  ASSERT_TRUE(group->unset_container());
  EXPECT_TRUE(iommu_group->bind_host_driver());
  group.reset();
  vfio_.unregister(device);
}

TEST_F(VfioTest, PinNeedsAnOpenDevice) {
  const auto device = add("a");
  EXPECT_EQ(device->pin_pages(0, 1, Prot::read).error(), Errno{EINVAL});
  std::array<std::byte, 4> data{};
  EXPECT_EQ(device->dma_read(0, data), fail(EINVAL));
  const auto container = vfio_.open_container();
  auto group = *device->group().open();
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  const auto file = *GroupFile::get_device(group, "a");
  EXPECT_EQ(device->pin_pages(0, 0, Prot::read).error(), Errno{EINVAL});
  EXPECT_EQ(device->pin_pages(0, 513, Prot::read).error(), Errno{E2BIG});
  EXPECT_EQ(device->pin_pages(0, 1, Prot::read).error(), Errno{EINVAL}) << "nothing is mapped";
  const auto space = std::make_shared<testing::FakeAddressSpace>(0, 0x4000);
  ASSERT_TRUE(type1(*container)
                  .map({.iova = 0x1000, .vaddr = 0, .size = 0x4000, .flags = 3}, {.space = space}));
  {
    auto pins = device->pin_pages(0x1000, 4, Prot::read_write);
    ASSERT_TRUE(pins);
    EXPECT_EQ(space->locked().pages(), 4u);
    const std::array<std::byte, 3> text{std::byte{1}, std::byte{2}, std::byte{3}};
    ASSERT_TRUE(pins->write(0x1fff, text));
    EXPECT_EQ(space->memory[0x2001], std::byte{3});
    EXPECT_EQ(pins->write(0x3fff, text), fail(EINVAL));
    PinnedPages moved = std::move(*pins);
    EXPECT_EQ(space->locked().pages(), 4u);
  }
  EXPECT_EQ(space->locked().pages(), 0u) << "dropping the pin unpins";
}

TEST_F(VfioTest, DmaThroughTheTranslationCache) {
  const auto device = add("a");
  const auto container = vfio_.open_container();
  auto group = *device->group().open();
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  const auto file = *GroupFile::get_device(group, "a");
  const auto space = std::make_shared<testing::FakeAddressSpace>(0, 0x4000);
  auto& iommu = type1(*container);
  ASSERT_TRUE(
      iommu.map({.iova = 0x1000, .vaddr = 0, .size = 0x2000, .flags = 3}, {.space = space}));
  ASSERT_TRUE(
      iommu.map({.iova = 0x3000, .vaddr = 0x2000, .size = 0x2000, .flags = 1}, {.space = space}));
  Dma dma = *device->dma();
  EXPECT_EQ(dma.translate(0x1000, 0, Prot::read).error(), Errno{EINVAL});
  EXPECT_EQ(dma.translate(0x0, 8, Prot::read).error(), Errno{EINVAL});
  for (int round = 0; round < 2; ++round) {
    auto window = dma.translate(0x1008, 8, Prot::read_write);
    ASSERT_TRUE(window);
    EXPECT_EQ(window->data(), space->memory.data() + 8);
  }
  EXPECT_EQ(dma.translate(0x2ff8, 9, Prot::read).error(), Errno{EOPNOTSUPP}) << "two mappings";
  EXPECT_EQ(dma.translate(0x4ff8, 9, Prot::read).error(), Errno{EINVAL}) << "leaves the mapping";
  EXPECT_EQ(dma.translate(0x3000, 8, Prot::write).error(), Errno{EPERM});
  std::array<std::byte, 16> data{};
  EXPECT_TRUE(dma.read(0x2ff8, data)) << "read and write cross mappings";
  EXPECT_EQ(dma.write(0x2ff8, data), fail(EPERM));
  EXPECT_TRUE(dma.write(0x1000, data));
  EXPECT_EQ(*iommu.unmap({.iova = 0x1000, .size = 0x2000}), 0x2000u);
  EXPECT_EQ(dma.read(0x1000, data), fail(EINVAL))
      << "a cached translation does not outlive the mapping";
}

TEST_F(VfioTest, UnregisterAsksAndWaits) {
  const auto device = add("a");
  const auto container = vfio_.open_container();
  auto group = *device->group().open();
  ASSERT_TRUE(group->set_container(container));
  ASSERT_TRUE(container->set_iommu(VFIO_TYPE1v2_IOMMU));
  auto file = *GroupFile::get_device(group, "a");
  std::jthread user;
  record_.on_request = [&] {
    EXPECT_EQ(GroupFile::get_device(group, "a").error(), Errno{ENODEV}) << "no new users";
    user = std::jthread([&] { file.reset(); });
  };
  vfio_.unregister(device);
  EXPECT_EQ(record_.requests, 1);
  EXPECT_EQ(record_.closed, 1);
  EXPECT_EQ(group->status().error(), Errno{ENODEV});
  EXPECT_EQ(group->set_container(container), fail(ENODEV));
  EXPECT_EQ(container->iommu(), nullptr) << "the container lost its group";
}

}  // namespace
}  // namespace uvfio::vfio
