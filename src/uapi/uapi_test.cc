#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/vfio.h>

#include "tests/support/arena_caller.h"
#include "tests/support/fake_device.h"
#include "uvfio/host.h"
#include "uvfio/vfio_compat.h"

namespace uvfio::uapi {
namespace {

using testing::ArenaCaller;

constexpr std::uint64_t kUnmapped = 0x10;  // below the arena
constexpr std::uint32_t kReadWrite = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

// A client with one mediated device, up to the state that a test needs.
class UapiTest : public ::testing::Test {
 protected:
  UapiTest() {
    EXPECT_TRUE(host_.mdev().register_driver(driver_));
    const auto parent = host_.mdev().register_parent(
        {.name = "card", .driver_name = "fake", .types = {{"1", "One"}}}, driver_);
    mdev_ = *host_.mdev().create(*parent, (*parent)->types()[0], Uuid::random());
    group_ = *mdev_->vfio_device()->group().open();
    caller_.containers[3] = host_.vfio().open_container();
  }
  ~UapiTest() override {
    caller_.devices.clear();
    group_.reset();
  }

  Result<int> container(std::uint32_t command, std::uint64_t arg = 0) {
    return container_ioctl(*caller_.containers[3], caller_, command, arg);
  }
  Result<int> group(std::uint32_t command, std::uint64_t arg = 0) {
    return group_ioctl(group_, caller_, command, arg);
  }
  Result<int> device(std::uint32_t command, std::uint64_t arg = 0) {
    return device_ioctl(*caller_.devices.begin()->second, caller_, command, arg);
  }
  void set_iommu(std::uint64_t type = VFIO_TYPE1v2_IOMMU) {
    ASSERT_EQ(group(VFIO_GROUP_SET_CONTAINER, caller_.put(std::int32_t{3})), 0);
    ASSERT_EQ(container(VFIO_SET_IOMMU, type), 0);
  }
  void open_device() {
    set_iommu();
    ASSERT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, put_string(mdev_->name())), 100);
  }
  std::uint64_t put_string(const std::string& text, std::size_t offset = 0) {
    std::memcpy(caller_.arena.data() + offset, text.c_str(), text.size() + 1);
    return ArenaCaller::kBase + offset;
  }

  testing::FakeDriver driver_;
  Host host_;
  std::shared_ptr<mdev::Device> mdev_;
  std::shared_ptr<vfio::GroupFile> group_;
  ArenaCaller caller_;
};

TEST_F(UapiTest, ContainerWithoutIommu) {
  EXPECT_EQ(container(VFIO_GET_API_VERSION), 0);
  EXPECT_EQ(container(VFIO_CHECK_EXTENSION, VFIO_TYPE1_IOMMU), 1);
  EXPECT_EQ(container(VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), fail(EINVAL));
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, kUnmapped), fail(EINVAL)) << "not EFAULT, not ENOTTY";
  EXPECT_EQ(container(0x1234), fail(EINVAL));
  set_iommu();
  EXPECT_EQ(container(0x1234), fail(ENOTTY));
}

TEST_F(UapiTest, GroupStatus) {
  EXPECT_EQ(group(VFIO_GROUP_GET_STATUS, kUnmapped), fail(EFAULT));
  EXPECT_EQ(group(VFIO_GROUP_GET_STATUS, caller_.put(vfio_group_status{.argsz = 7})), fail(EINVAL));
  EXPECT_EQ(group(VFIO_GROUP_GET_STATUS, caller_.put(vfio_group_status{.argsz = ~0u})), 0);
  EXPECT_EQ(caller_.at<vfio_group_status>().flags, std::uint32_t{VFIO_GROUP_FLAGS_VIABLE});
  EXPECT_EQ(caller_.at<vfio_group_status>().argsz, ~0u);
  EXPECT_EQ(group(0x1234), fail(ENOTTY));
}

TEST_F(UapiTest, SetContainer) {
  caller_.files[4] = *Fd(open("/dev/null", O_RDONLY)).duplicate();
  EXPECT_EQ(group(VFIO_GROUP_SET_CONTAINER, kUnmapped), fail(EFAULT));
  EXPECT_EQ(group(VFIO_GROUP_SET_CONTAINER, caller_.put(std::int32_t{-1})), fail(EBADF));
  EXPECT_EQ(group(VFIO_GROUP_SET_CONTAINER, caller_.put(std::int32_t{4})), fail(EBADFD));
  EXPECT_EQ(group(VFIO_GROUP_UNSET_CONTAINER), fail(EINVAL));
  set_iommu();
  EXPECT_EQ(group(VFIO_GROUP_SET_CONTAINER, caller_.put(std::int32_t{-1})), fail(EBADF));
  EXPECT_EQ(group(VFIO_GROUP_SET_CONTAINER, caller_.put(std::int32_t{4})), fail(EINVAL));
  EXPECT_EQ(group(VFIO_GROUP_UNSET_CONTAINER), 0);
}

TEST_F(UapiTest, GetDeviceFd) {
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, kUnmapped), fail(EFAULT));
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, put_string("nobody")), fail(ENODEV));
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, put_string(mdev_->name())), fail(EINVAL))
      << "no container";
  std::ranges::fill(caller_.arena, std::byte{'x'});
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, ArenaCaller::kBase), fail(EINVAL))
      << "no end within a page";
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, caller_.end() - 8), fail(EFAULT));
  caller_.arena.back() = std::byte{0};
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, caller_.end() - 8), fail(ENODEV))
      << "ends where memory ends";
  caller_.arena[4095] = std::byte{0};
  EXPECT_EQ(group(VFIO_GROUP_GET_DEVICE_FD, ArenaCaller::kBase), fail(ENODEV))
      << "4096 with the NUL";
  open_device();
  EXPECT_EQ(caller_.devices.size(), 1u);
}

TEST_F(UapiTest, IommuInfoAndItsChain) {
  set_iommu();
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO, kUnmapped), fail(EFAULT));
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO, caller_.put(vfio_iommu_type1_info{.argsz = 15})),
            fail(EINVAL));
  constexpr std::uint32_t kNeeded = sizeof(vfio_iommu_type1_info) + 32 + 16;
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO,
                      caller_.put(vfio_iommu_type1_info{.argsz = 16, .cap_offset = 77})),
            0);
  EXPECT_EQ(caller_.at<vfio_iommu_type1_info>().argsz, kNeeded);
  EXPECT_EQ(caller_.at<vfio_iommu_type1_info>().cap_offset, 77u) << "not part of a 16-byte struct";
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO,
                      caller_.put(vfio_iommu_type1_info{.argsz = kNeeded - 1, .cap_offset = 77})),
            0);
  EXPECT_EQ(caller_.at<vfio_iommu_type1_info>().cap_offset, 0u);
  EXPECT_EQ(caller_.at<std::uint32_t>(sizeof(vfio_iommu_type1_info)), 0u)
      << "nothing written behind";
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO, caller_.put(vfio_iommu_type1_info{.argsz = 4096})), 0);
  const auto info = caller_.at<vfio_iommu_type1_info>();
  EXPECT_EQ(info.argsz, 4096u);
  EXPECT_EQ(info.flags, std::uint32_t{VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS});
  EXPECT_EQ(info.iova_pgsizes, ~std::uint64_t{0xfff});
  ASSERT_EQ(info.cap_offset, sizeof info);
  const auto migration = caller_.at<vfio_iommu_type1_info_cap_migration>(info.cap_offset);
  EXPECT_EQ(migration.header.id, VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION);
  EXPECT_EQ(migration.pgsize_bitmap, 4096u);
  const auto available = caller_.at<vfio_iommu_type1_info_dma_avail>(migration.header.next);
  EXPECT_EQ(available.header.id, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
  EXPECT_EQ(available.header.next, 0u);
  EXPECT_EQ(available.avail, 65535u);
  EXPECT_EQ(container(VFIO_IOMMU_GET_INFO, caller_.put(info, caller_.arena.size() - sizeof info)),
            fail(EFAULT))
      << "the chain leaves the client's memory";
}

TEST_F(UapiTest, MapAndUnmap) {
  set_iommu();
  vfio_iommu_type1_dma_map map{
      .argsz = sizeof map, .flags = kReadWrite, .vaddr = 0, .iova = 0x1000, .size = 0x1000};
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, kUnmapped), fail(EFAULT));
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.end() - sizeof map + 1), fail(EFAULT));
  map.argsz = sizeof map - 1;
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.put(map)), fail(EINVAL));
  map = {.argsz = sizeof map, .flags = 8, .vaddr = 0, .iova = 0, .size = 0};
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.put(map)), fail(EINVAL));
  map = {.argsz = ~0u, .flags = kReadWrite, .vaddr = 0, .iova = 0x1000, .size = 0x1000};
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.put(map)), 0) << "a huge argsz is fine";
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.put(map)), fail(EEXIST));

  vfio_iommu_type1_dma_unmap unmap{
      .argsz = sizeof unmap, .flags = 0, .iova = 0x1800, .size = 0x1000};
  EXPECT_EQ(container(VFIO_IOMMU_UNMAP_DMA, caller_.put(unmap)), fail(EINVAL));
  EXPECT_EQ(caller_.at<vfio_iommu_type1_dma_unmap>().size, 0x1000u) << "unchanged on error";
  unmap.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL;
  EXPECT_EQ(container(VFIO_IOMMU_UNMAP_DMA, caller_.put(unmap)), fail(EINVAL));
  unmap = {.argsz = sizeof unmap, .flags = 0, .iova = 0, .size = 0x10000};
  EXPECT_EQ(container(VFIO_IOMMU_UNMAP_DMA, caller_.put(unmap)), 0);
  EXPECT_EQ(caller_.at<vfio_iommu_type1_dma_unmap>().size, 0x1000u);
  EXPECT_EQ(container(VFIO_IOMMU_UNMAP_DMA, caller_.put(unmap)), 0);
  EXPECT_EQ(caller_.at<vfio_iommu_type1_dma_unmap>().size, 0u);
}

TEST_F(UapiTest, DirtyPages) {
  set_iommu();
  struct Get {
    std::uint32_t argsz;
    std::uint32_t flags;
    vfio_iommu_type1_dirty_bitmap_get range;
  };
  static_assert(sizeof(Get) == 48);
  const auto call = [&](Get get) { return container(VFIO_IOMMU_DIRTY_PAGES, caller_.put(get)); };
  const Get good{48,
                 VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
                 {0x1000, 0x1000, {0x1000, 8, reinterpret_cast<__u64*>(ArenaCaller::kBase + 256)}}};
  EXPECT_EQ(call(good), fail(EINVAL)) << "tracking is off";
  EXPECT_EQ(call({8, 0, {}}), fail(EINVAL));
  EXPECT_EQ(call({8, 3, {}}), fail(EINVAL));
  EXPECT_EQ(call({8, 8, {}}), fail(EINVAL));
  EXPECT_EQ(call({8, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, {}}), 0);
  EXPECT_EQ(call({8, VFIO_IOMMU_DIRTY_PAGES_FLAG_START, {}}), 0);
  EXPECT_EQ(call(good), 0);
  Get bad = good;
  bad.argsz = 47;
  EXPECT_EQ(call(bad), fail(EINVAL));
  bad = good;
  bad.range.size = 0;
  EXPECT_EQ(call(bad), fail(EINVAL));
  bad = good;
  bad.range.iova = ~std::uint64_t{0} - 0xfff;
  bad.range.size = 0x2000;
  EXPECT_EQ(call(bad), fail(EOVERFLOW));
  bad = good;
  bad.range.bitmap.pgsize = 0;
  EXPECT_EQ(call(bad), fail(EINVAL));
  bad = good;
  bad.range.bitmap.size = 7;
  EXPECT_EQ(call(bad), fail(EINVAL));
  bad = good;
  bad.range.bitmap.data = reinterpret_cast<__u64*>(std::uint64_t{1} << 63);
  EXPECT_EQ(call(bad), fail(EINVAL));
  const vfio_iommu_type1_dma_map map{
      .argsz = sizeof map, .flags = kReadWrite, .vaddr = 0, .iova = 0x1000, .size = 0x1000};
  EXPECT_EQ(container(VFIO_IOMMU_MAP_DMA, caller_.put(map)), 0);
  bad = good;
  bad.range.bitmap.data = reinterpret_cast<__u64*>(kUnmapped);
  EXPECT_EQ(call(bad), fail(EFAULT));
}

TEST_F(UapiTest, Version1RefusesDirtyTracking) {
  set_iommu(VFIO_TYPE1_IOMMU);
  EXPECT_EQ(container(VFIO_IOMMU_DIRTY_PAGES, kUnmapped), fail(EACCES));
}

TEST_F(UapiTest, DeviceAndRegionInfo) {
  open_device();
  EXPECT_EQ(device(VFIO_DEVICE_GET_INFO, kUnmapped), fail(EFAULT));
  EXPECT_EQ(device(VFIO_DEVICE_GET_INFO, caller_.put(vfio_device_info{.argsz = 15})), fail(EINVAL));
  EXPECT_EQ(device(VFIO_DEVICE_GET_INFO, caller_.put(vfio_device_info{.argsz = 16})), 0);
  EXPECT_EQ(caller_.at<vfio_device_info>().num_regions, 2u);
  const auto region = [&](std::uint32_t index, std::uint32_t argsz) {
    return device(VFIO_DEVICE_GET_REGION_INFO,
                  caller_.put(vfio_region_info{.argsz = argsz, .index = index}));
  };
  EXPECT_EQ(region(0, 31), fail(EINVAL));
  EXPECT_EQ(region(2, 32), fail(EINVAL));
  EXPECT_EQ(region(0, 32), 0);
  EXPECT_NE(caller_.at<vfio_region_info>().flags & VFIO_REGION_INFO_FLAG_MMAP, 0u);
  caller_.mmap = false;
  EXPECT_EQ(region(0, 32), 0);
  EXPECT_EQ(caller_.at<vfio_region_info>().flags & VFIO_REGION_INFO_FLAG_MMAP, 0u);
  EXPECT_EQ(region(1, 32), 0);
  EXPECT_EQ(caller_.at<vfio_region_info>().argsz, 32u + 16 + 8);
  EXPECT_EQ(region(1, 56), 0);
  EXPECT_EQ(caller_.at<vfio_region_info>().cap_offset, 32u);
  EXPECT_EQ(caller_.at<vfio_info_cap_header>(32).next, 48u);
  EXPECT_EQ(caller_.at<vfio_info_cap_header>(48).id, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
  EXPECT_EQ(device(VFIO_DEVICE_RESET), 0);
  EXPECT_EQ(driver_.record.resets, 1);
  EXPECT_EQ(device(0x1234), fail(ENOTTY));
}

TEST_F(UapiTest, SetIrqs) {
  open_device();
  auto event = EventFd::create();
  caller_.files[5] = *Fd(event->get()).duplicate();
  caller_.files[6] = *Fd(open("/dev/null", O_RDONLY)).duplicate();
  struct Set {
    std::uint32_t argsz, flags, index, start, count;
    std::int32_t data[4];
  };
  const auto call = [&](Set set) { return device(VFIO_DEVICE_SET_IRQS, caller_.put(set)); };
  constexpr std::uint32_t kNone = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
  constexpr std::uint32_t kBool = VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER;
  constexpr std::uint32_t kEvent = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  EXPECT_EQ(device(VFIO_DEVICE_SET_IRQS, kUnmapped), fail(EFAULT));
  EXPECT_EQ(call({19, kNone, 0, 0, 1, {}}), fail(EINVAL));
  EXPECT_EQ(call({20, kNone, 2, 0, 1, {}}), fail(EINVAL)) << "index";
  EXPECT_EQ(call({20, kNone, 0, 1, ~0u - 1, {}}), fail(EINVAL)) << "count";
  EXPECT_EQ(call({20, kNone | 64, 0, 0, 1, {}}), fail(EINVAL)) << "flags";
  EXPECT_EQ(call({20, kNone, 0, 4, 0, {}}), fail(EINVAL)) << "start";
  EXPECT_EQ(call({20, kNone, 0, 3, 2, {}}), fail(EINVAL));
  EXPECT_EQ(call({20, kNone, 1, 0, 0, {}}), fail(EINVAL)) << "an index without interrupts";
  EXPECT_EQ(call({20, kNone | kBool, 0, 0, 1, {}}), fail(EINVAL)) << "two types of data";
  EXPECT_EQ(call({20, VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 1, {}}), fail(EINVAL));
  EXPECT_EQ(call({23, kEvent, 0, 0, 1, {5}}), fail(EINVAL)) << "payload";
  EXPECT_EQ(call({22, kBool, 0, 0, 3, {}}), fail(EINVAL));
  EXPECT_EQ(call({23, kBool, 0, 0, 3, {}}), 3) << "a positive result is passed on";
  EXPECT_EQ(call({20, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, 0, 0, 1, {}}),
            fail(ENOTTY));
  EXPECT_EQ(call({28, kEvent, 0, 0, 2, {-1, 99}}), fail(EBADF));
  EXPECT_EQ(call({28, kEvent, 0, 0, 2, {-1, 6}}), fail(EINVAL)) << "not an eventfd";
  EXPECT_EQ(call({28, kEvent, 0, 0, 2, {-1, 5}}), 0);
  const Set whole{28, kEvent, 0, 0, 2, {-1, 5}};
  EXPECT_EQ(
      device(VFIO_DEVICE_SET_IRQS, caller_.put(std::array{whole.argsz, whole.flags, 0u, 0u, 2u},
                                               caller_.arena.size() - 20)),
      fail(EFAULT));
}

TEST_F(UapiTest, FeaturesThatTheDeviceLacks) {
  open_device();
  const auto call = [&](std::uint32_t argsz, std::uint32_t flags) {
    return device(VFIO_DEVICE_FEATURE, caller_.put(std::array{argsz, flags}));
  };
  EXPECT_EQ(device(VFIO_DEVICE_FEATURE, kUnmapped), fail(EFAULT));
  EXPECT_EQ(call(7, VFIO_DEVICE_FEATURE_PROBE), fail(EINVAL));
  EXPECT_EQ(call(8, 1u << 31), fail(EINVAL));
  EXPECT_EQ(call(8, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET), fail(EINVAL));
  EXPECT_EQ(call(8, VFIO_DEVICE_FEATURE_PROBE | 999), fail(ENOTTY));
  EXPECT_EQ(call(8, VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_MIGRATION), fail(ENOTTY));
  EXPECT_EQ(call(8, VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_DMA_LOGGING_START),
            fail(ENOTTY));
  EXPECT_EQ(call(8, VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2),
            fail(EINVAL));
}

}  // namespace
}  // namespace uvfio::uapi
