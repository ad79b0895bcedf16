#include "iommu/type1/type1.h"

#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <cstring>
#include <deque>
#include <random>
#include <thread>

#include "tests/support/fake_address_space.h"

namespace uvfio::iommu::type1 {
namespace {

using testing::FakeAddressSpace;

constexpr std::uint32_t kRead = VFIO_DMA_MAP_FLAG_READ;
constexpr std::uint32_t kWrite = VFIO_DMA_MAP_FLAG_WRITE;
constexpr std::uint32_t kReadWrite = kRead | kWrite;
constexpr std::uint64_t kBase = 0x10000000;  // where the client's memory lies
constexpr std::uint64_t kPage = memory::kPageSize;

// A device that pins, and answers an unmap by dropping what it holds there.
class Pinner final : public vfio::DmaClient {
 public:
  explicit Pinner(Type1& iommu) : iommu_(iommu) { iommu_.register_device(*this); }
  ~Pinner() override { iommu_.unregister_device(*this); }

  void dma_unmap(std::uint64_t iova, std::uint64_t size) override {
    requests.emplace_back(iova, size);
    if (stubborn) return;
    std::erase_if(held, [&](const auto& pin) {
      if (pin.first < iova || pin.first - iova >= size) return false;
      iommu_.unpin_pages(pin.first, pin.second);
      return true;
    });
  }
  Status pin(std::uint64_t iova, std::uint64_t pages, Prot prot = Prot::read_write) {
    vfio::PinnedPages pins;  // without an IOMMU of its own: unpinned by hand
    auto pinned = iommu_.pin_pages(iova, pages, prot, pins);
    if (pinned) held.emplace_back(iova, pages);
    return pinned;
  }

  std::vector<std::pair<std::uint64_t, std::uint64_t>> held;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> requests;
  bool stubborn = false;

 private:
  Type1& iommu_;
};

class Type1Test : public ::testing::Test {
 protected:
  Type1Test() { EXPECT_TRUE(iommu_.attach_group(group_)); }

  Status map(std::uint64_t iova, std::uint64_t offset, std::uint64_t size,
             std::uint32_t flags = kReadWrite) {
    return iommu_.map({.iova = iova, .vaddr = kBase + offset, .size = size, .flags = flags},
                      {.space = space_, .lock_cap = lock_cap_});
  }
  Result<std::uint64_t> unmap(std::uint64_t iova, std::uint64_t size, std::uint32_t flags = 0) {
    return iommu_.unmap({.iova = iova, .size = size, .flags = flags});
  }

  std::shared_ptr<FakeAddressSpace> space_ = std::make_shared<FakeAddressSpace>(kBase, 64 * kPage);
  bool lock_cap_ = false;
  IommuGroup group_{0, GroupType::emulated};
  Type1 iommu_{true, std::make_shared<Parameters>()};
};

TEST_F(Type1Test, MapChecksInOrder) {
  const std::uint64_t end = ~std::uint64_t{0} - kPage + 1;
  EXPECT_EQ(map(0, 0, 0), fail(EINVAL));
  EXPECT_EQ(map(end, 0, 2 * kPage), fail(EOVERFLOW));
  EXPECT_EQ(map(0, end - kBase, 2 * kPage), fail(EOVERFLOW));
  EXPECT_EQ(map(0, 0, kPage, 0), fail(EINVAL));
  EXPECT_EQ(map(0, 0, kPage, kRead | VFIO_DMA_MAP_FLAG_VADDR), fail(EINVAL));
  EXPECT_EQ(map(1, 0, kPage), fail(EINVAL));
  EXPECT_EQ(map(0, 1, kPage), fail(EINVAL));
  EXPECT_EQ(map(0, 0, kPage + 1), fail(EINVAL));
  EXPECT_EQ(map(0, 0, kPage, VFIO_DMA_MAP_FLAG_VADDR), fail(ENOENT));
  ASSERT_TRUE(map(kPage, 0, 2 * kPage));
  EXPECT_EQ(map(kPage, 0, kPage, VFIO_DMA_MAP_FLAG_VADDR), fail(EINVAL));
  EXPECT_EQ(map(0, 0, 2 * kPage), fail(EEXIST));
  EXPECT_EQ(map(2 * kPage, 0, kPage), fail(EEXIST));
  EXPECT_TRUE(map(0, 0, kPage));
  EXPECT_TRUE(map(3 * kPage, 0, kPage));
  EXPECT_TRUE(map(end, 0, kPage)) << "the last page of the address space";
}

TEST_F(Type1Test, MapDoesNotLookAtTheMemory) {
  EXPECT_TRUE(map(0, 1 << 30, kPage)) << "nothing is there, and no domain wants it";
  EXPECT_EQ(space_->views + space_->checks, 0);
}

TEST(Type1, EntryLimit) {
  const auto parameters = std::make_shared<Parameters>();
  parameters->dma_entry_limit = 2;
  Type1 iommu(true, parameters);
  IommuGroup group(0, GroupType::emulated);
  ASSERT_TRUE(iommu.attach_group(group));
  const Mapper mapper{.space = std::make_shared<FakeAddressSpace>(0, kPage)};
  EXPECT_TRUE(iommu.map({.iova = 0, .size = kPage, .flags = kRead}, mapper));
  EXPECT_TRUE(iommu.map({.iova = kPage, .size = kPage, .flags = kRead}, mapper));
  EXPECT_EQ(iommu.info().dma_avail, 0u);
  EXPECT_EQ(iommu.map({.iova = 0, .size = kPage, .flags = kRead}, mapper), fail(EEXIST));
  EXPECT_EQ(iommu.map({.iova = 2 * kPage, .size = kPage, .flags = kRead}, mapper), fail(ENOSPC));
  EXPECT_EQ(iommu.unmap({.iova = 0, .size = kPage}), kPage);
  EXPECT_TRUE(iommu.map({.iova = 2 * kPage, .size = kPage, .flags = kRead}, mapper));
}

TEST(Type1, GroupsAttachOnceAndRealOnesNeedADomain) {
  Type1 iommu(true, std::make_shared<Parameters>());
  IommuGroup emulated(0, GroupType::emulated);
  IommuGroup real(1, GroupType::real);
  EXPECT_TRUE(iommu.attach_group(emulated));
  EXPECT_EQ(iommu.attach_group(emulated), fail(EINVAL));
  EXPECT_EQ(iommu.attach_group(real), fail(ENODEV));
}

TEST_F(Type1Test, UnmapVersion2NeverCuts) {
  ASSERT_TRUE(map(0x10000, 0, 4 * kPage));
  ASSERT_TRUE(map(0x20000, 0, 4 * kPage));
  EXPECT_EQ(unmap(0x11000, kPage), fail(EINVAL));
  EXPECT_EQ(unmap(0x10000, kPage), fail(EINVAL));
  EXPECT_EQ(unmap(0x13000, 0x10000), fail(EINVAL));
  EXPECT_EQ(unmap(0, kPage), 0u);
  EXPECT_EQ(unmap(0, 0x100000), 8 * kPage);
  EXPECT_EQ(unmap(0, 0x100000), 0u);
}

TEST_F(Type1Test, UnmapChecksInOrder) {
  EXPECT_EQ(unmap(0, kPage, VFIO_DMA_UNMAP_FLAG_VADDR), fail(EBUSY));
  EXPECT_EQ(unmap(1, kPage), fail(EINVAL));
  EXPECT_EQ(unmap(kPage, 0, VFIO_DMA_UNMAP_FLAG_ALL), fail(EINVAL));
  EXPECT_EQ(unmap(0, kPage, VFIO_DMA_UNMAP_FLAG_ALL), fail(EINVAL));
  EXPECT_EQ(unmap(0, 0), fail(EINVAL));
  EXPECT_EQ(unmap(0, 1), fail(EINVAL));
  EXPECT_EQ(unmap(~std::uint64_t{0} - kPage + 1, 2 * kPage), fail(EOVERFLOW));
  ASSERT_TRUE(map(0, 0, kPage));
  ASSERT_TRUE(map(~std::uint64_t{0} - kPage + 1, 0, kPage));
  EXPECT_EQ(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL), 2 * kPage);
  EXPECT_EQ(iommu_.usage().mappings, 0u);
}

TEST(Type1, UnmapVersion1TakesWholeMappingsFromTheirStart) {
  Type1 iommu(false, std::make_shared<Parameters>());
  IommuGroup group(0, GroupType::emulated);
  ASSERT_TRUE(iommu.attach_group(group));
  const Mapper mapper{.space = std::make_shared<FakeAddressSpace>(0, kPage)};
  const auto map = [&](std::uint64_t iova, std::uint64_t pages) {
    ASSERT_TRUE(iommu.map({.iova = iova, .size = pages * kPage, .flags = kRead}, mapper));
  };
  map(0x10000, 4);
  map(0x20000, 4);
  EXPECT_EQ(iommu.unmap({.iova = 0x11000, .size = 0x20000}), 0u)
      << "what starts before stops the walk";
  EXPECT_EQ(iommu.unmap({.iova = 0x0f000, .size = 2 * kPage}), 4 * kPage) << "more than asked for";
  EXPECT_EQ(iommu.unmap({.iova = 0x20000, .size = kPage}), 4 * kPage);
}

TEST_F(Type1Test, PinChecksInOrder) {
  vfio::PinnedPages pins;
  EXPECT_EQ(iommu_.pin_pages(~std::uint64_t{0} - kPage + 1, 2, Prot::read, pins), fail(EOVERFLOW));
  ASSERT_TRUE(map(0, 0, 2 * kPage, kRead));
  ASSERT_TRUE(map(2 * kPage, 64 * kPage, kPage));  // beyond the memory that is there
  EXPECT_EQ(iommu_.pin_pages(0, 1, Prot::read, pins), fail(EINVAL)) << "no device is registered";
  Pinner device(iommu_);
  EXPECT_EQ(device.pin(0x100000, 1), fail(EINVAL));
  EXPECT_EQ(device.pin(0, 1, Prot::write), fail(EPERM));
  EXPECT_EQ(device.pin(kPage, 2, Prot::read), fail(EFAULT));
  EXPECT_EQ(iommu_.usage().pinned_pages, 0u) << "a failed pin leaves nothing";
  EXPECT_EQ(space_->locked().pages(), 0u);
  EXPECT_TRUE(device.pin(0, 2, Prot::read));
  space_->dead = true;
  EXPECT_TRUE(device.pin(0, 2, Prot::read)) << "pinned already";
  EXPECT_TRUE(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL));
}

TEST_F(Type1Test, PinOfAProcessThatHasGone) {
  ASSERT_TRUE(map(0, 0, kPage));
  Pinner device(iommu_);
  space_->dead = true;
  EXPECT_EQ(device.pin(0, 1), fail(ENODEV));
}

TEST_F(Type1Test, FirstPinsAreAccounted) {
  space_->limit = 4;
  ASSERT_TRUE(map(0, 0, 8 * kPage));
  ASSERT_TRUE(map(8 * kPage, 0, 8 * kPage));
  Pinner device(iommu_);
  ASSERT_TRUE(device.pin(0, 3));
  ASSERT_TRUE(device.pin(1 * kPage, 3)) << "only one of these is new";
  EXPECT_EQ(space_->locked().pages(), 4u);
  EXPECT_EQ(device.pin(7 * kPage, 1), fail(ENOMEM));
  EXPECT_EQ(device.pin(0, 8), fail(ENOMEM));
  EXPECT_EQ(space_->locked().pages(), 4u);
  iommu_.unpin_pages(0, 3);
  EXPECT_EQ(space_->locked().pages(), 3u);
  device.held = {{kPage, 3}};
  EXPECT_TRUE(unmap(0, 8 * kPage));
  EXPECT_EQ(space_->locked().pages(), 0u);
  lock_cap_ = true;
  ASSERT_TRUE(map(0, 0, 8 * kPage));
  EXPECT_TRUE(device.pin(0, 8)) << "CAP_IPC_LOCK at map time";
  EXPECT_EQ(space_->locked().pages(), 8u);
}

TEST_F(Type1Test, PinsSpanMappingsAndAreReachable) {
  ASSERT_TRUE(map(0, 0, kPage));
  ASSERT_TRUE(map(kPage, 4 * kPage, kPage));
  Pinner device(iommu_);
  vfio::PinnedPages pins;
  ASSERT_TRUE(iommu_.pin_pages(0, 2, Prot::read, pins));
  ASSERT_EQ(pins.segments().size(), 2u);
  EXPECT_EQ(pins.segments()[0].host, space_->memory.data());
  EXPECT_EQ(pins.segments()[1].host, space_->memory.data() + 4 * kPage);
  EXPECT_EQ(pins.segments()[1].vaddr, kBase + 4 * kPage);
  iommu_.unpin_pages(0, 2);
}

TEST_F(Type1Test, UnmapAsksDevicesToUnpin) {
  ASSERT_TRUE(map(0x10000, 0, 8 * kPage));
  Pinner first(iommu_);
  Pinner second(iommu_);
  ASSERT_TRUE(first.pin(0x11000, 1));
  ASSERT_TRUE(second.pin(0x12000, 2));
  EXPECT_EQ(unmap(0, 0x100000), 8 * kPage);
  using Requests = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  EXPECT_EQ(first.requests, (Requests{{0x10000, 8 * kPage}})) << "the whole mapping, once";
  EXPECT_EQ(second.requests, first.requests);
  EXPECT_EQ(iommu_.usage().mappings, 0u);
}

TEST_F(Type1Test, UnmapGivesUpAfterTenRequests) {
  ASSERT_TRUE(map(0, 0, kPage));
  Pinner device(iommu_);
  ASSERT_TRUE(device.pin(0, 1));
  device.stubborn = true;
  EXPECT_EQ(unmap(0, kPage), fail(EBUSY));
  EXPECT_EQ(device.requests.size(), 10u);
  EXPECT_EQ(iommu_.usage().mappings, 1u);
  device.stubborn = false;
  EXPECT_EQ(unmap(0, kPage), kPage);
}

TEST_F(Type1Test, LastGroupTakesTheMappingsWithIt) {
  ASSERT_TRUE(map(0, 0, kPage));
  Pinner device(iommu_);
  ASSERT_TRUE(device.pin(0, 1));
  iommu_.detach_group(group_);
  EXPECT_EQ(iommu_.usage().mappings, 0u);
  EXPECT_EQ(space_->locked().pages(), 0u);
  iommu_.unpin_pages(0, 1);  // late, and silent
}

TEST_F(Type1Test, DmaCrossesMappingsAndChecksPermissions) {
  ASSERT_TRUE(map(0, 0, kPage));
  ASSERT_TRUE(map(kPage, 8 * kPage, kPage));
  ASSERT_TRUE(map(3 * kPage, 0, kPage, kRead));
  ASSERT_TRUE(map(4 * kPage, 0, kPage, kWrite));
  std::array<std::byte, 32> data;
  data.fill(std::byte{0x5a});
  ASSERT_TRUE(iommu_.dma_write(kPage - 16, data));
  EXPECT_EQ(space_->memory[kPage - 1], std::byte{0x5a});
  EXPECT_EQ(space_->memory[8 * kPage + 15], std::byte{0x5a});
  EXPECT_EQ(space_->memory[8 * kPage + 16], std::byte{0});
  std::array<std::byte, 32> back{};
  ASSERT_TRUE(iommu_.dma_read(kPage - 16, back));
  EXPECT_EQ(back, data);
  EXPECT_EQ(iommu_.dma_read(2 * kPage - 1, back), fail(EINVAL));
  EXPECT_EQ(iommu_.dma_write(3 * kPage, data), fail(EPERM));
  EXPECT_EQ(iommu_.dma_write(4 * kPage, data), fail(EPERM)) << "writes need READ, too";
  space_->dead = true;
  EXPECT_TRUE(iommu_.dma_read(0, back)) << "shared memory outlives its process";
}

TEST_F(Type1Test, PrivateMemoryIsReachedByCopy) {
  space_ =
      std::make_shared<FakeAddressSpace>(kBase, 4 * kPage, FakeAddressSpace::Kind::private_memory);
  ASSERT_TRUE(map(0, 0, 4 * kPage));
  ASSERT_TRUE(map(0x10000, 4 * kPage, kPage));
  const std::array<std::byte, 4> data{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(iommu_.dma_write(kPage - 2, data));
  EXPECT_EQ(space_->memory[kPage + 1], std::byte{4});
  std::array<std::byte, 4> back{};
  EXPECT_EQ(iommu_.dma_read(0x10000, back), fail(EFAULT));
  Pinner device(iommu_);
  vfio::PinnedPages pins;
  ASSERT_TRUE(iommu_.pin_pages(0, 2, Prot::read, pins));
  EXPECT_FALSE(pins.direct());
  EXPECT_EQ(pins.segments()[0].vaddr, kBase);
  iommu_.unpin_pages(0, 2);
  space_->dead = true;
  EXPECT_EQ(iommu_.dma_read(0, back), fail(EPERM));
}

TEST_F(Type1Test, ReadOnlyMemoryUnderAWritableMapping) {
  space_->read_only = true;
  ASSERT_TRUE(map(0, 0, kPage));
  std::array<std::byte, 4> data{};
  EXPECT_TRUE(iommu_.dma_read(0, data));
  EXPECT_EQ(iommu_.dma_write(0, data), fail(EFAULT));
  Pinner device(iommu_);
  EXPECT_EQ(device.pin(0, 1), fail(EFAULT));
  EXPECT_TRUE(device.pin(0, 1, Prot::read));
}

class Bitmap final : public UserBitmap {
 public:
  Result<std::uint64_t> read(std::uint64_t word) override { return words.at(word); }
  Status write(std::uint64_t word, std::span<const std::uint64_t> data) override {
    std::ranges::copy(data, words.begin() + static_cast<std::ptrdiff_t>(word));
    return {};
  }
  std::vector<std::uint64_t> words = std::vector<std::uint64_t>(4);
};

TEST_F(Type1Test, DirtyTracking) {
  ASSERT_TRUE(map(0, 0, 16 * kPage));
  Bitmap bitmap;
  EXPECT_EQ(iommu_.report_dirty(0, 16 * kPage, kPage, bitmap), fail(EINVAL)) << "tracking is off";
  Pinner device(iommu_);
  ASSERT_TRUE(device.pin(3 * kPage, 1));
  ASSERT_TRUE(iommu_.start_dirty_tracking());
  ASSERT_TRUE(iommu_.start_dirty_tracking());
  std::array<std::byte, 2> data{};
  ASSERT_TRUE(iommu_.dma_write(5 * kPage - 1, data));
  ASSERT_TRUE(device.pin(8 * kPage, 2));
  ASSERT_TRUE(iommu_.report_dirty(0, 16 * kPage, kPage, bitmap));
  EXPECT_EQ(bitmap.words[0], 0b11'0011'1000u);
  ASSERT_TRUE(iommu_.report_dirty(0, 16 * kPage, kPage, bitmap));
  EXPECT_EQ(bitmap.words[0], 0b11'0000'1000u) << "what is pinned stays dirty";
  EXPECT_EQ(iommu_.report_dirty(0, 8 * kPage, kPage, bitmap), fail(EINVAL)) << "cuts a mapping";
  EXPECT_EQ(iommu_.report_dirty(0, 16 * kPage, 2 * kPage, bitmap), fail(EINVAL));
  ASSERT_TRUE(map(16 * kPage, 0, kPage));
  ASSERT_TRUE(iommu_.dma_write(16 * kPage, data));
  bitmap.words = {0, 0, 0, 0};
  ASSERT_TRUE(iommu_.report_dirty(16 * kPage, kPage, kPage, bitmap));
  EXPECT_EQ(bitmap.words[0], 1u);
  EXPECT_EQ(iommu_.unmap({.iova = 0, .size = 16 * kPage, .page_size = kPage, .bitmap = &bitmap}),
            16 * kPage);
  iommu_.stop_dirty_tracking();
  EXPECT_EQ(iommu_.unmap({.iova = 0, .size = 16 * kPage, .page_size = kPage, .bitmap = &bitmap}),
            fail(EINVAL));
}

TEST_F(Type1Test, TranslationMarksWritesWhileTracked) {
  ASSERT_TRUE(map(0, 0, 4 * kPage));
  ASSERT_TRUE(iommu_.resolve(0));
  EXPECT_EQ(iommu_.translate(0, 1, Prot::write)->prot, Prot::read_write);
  const auto before = iommu_.generation().load();
  ASSERT_TRUE(iommu_.start_dirty_tracking());
  EXPECT_NE(iommu_.generation().load(), before);
  EXPECT_EQ(iommu_.translate(kPage, 1, Prot::write)->prot, Prot::read)
      << "each write has to be seen";
  Bitmap bitmap;
  ASSERT_TRUE(iommu_.report_dirty(0, 4 * kPage, kPage, bitmap));
  EXPECT_EQ(bitmap.words[0], 2u);
}

// Ten threads at once; what each of them sees must be consistent, and nothing may be left.
TEST_F(Type1Test, ManyThreads) {
  constexpr int kThreads = 10;
  space_ = std::make_shared<FakeAddressSpace>(kBase, 1 << 20);
  std::vector<std::unique_ptr<Pinner>> devices;
  struct Device final : vfio::DmaClient {
    explicit Device(Type1& type1) : iommu(type1) { iommu.register_device(*this); }
    ~Device() override { iommu.unregister_device(*this); }
    void dma_unmap(std::uint64_t iova, std::uint64_t size) override {
      const std::scoped_lock lock(mutex);
      if (pinned && *pinned >= iova && *pinned - iova < size) {
        iommu.unpin_pages(*pinned, 1);
        pinned.reset();
      }
    }
    Type1& iommu;
    std::mutex mutex;
    std::optional<std::uint64_t> pinned;
  };
  std::deque<Device> pinners;
  for (int i = 0; i < kThreads; ++i) pinners.emplace_back(iommu_);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([this, i, &pinners] {
        std::mt19937_64 random(static_cast<unsigned>(i));
        Device& device = pinners[static_cast<std::size_t>(i)];
        std::array<std::byte, 64> data{};
        for (int step = 0; step < 2000; ++step) {
          const std::uint64_t iova = random() % 16 * 0x10000;
          switch (random() % 6) {
            case 0:
              static_cast<void>(map(iova, random() % 16 * 0x10000, 0x10000));
              break;
            case 1:
              static_cast<void>(unmap(iova, 0x10000));
              break;
            case 2:
              static_cast<void>(iommu_.dma_write(iova + random() % 0xff00, data));
              break;
            case 3:
              static_cast<void>(iommu_.dma_read(iova + random() % 0xff00, data));
              break;
            case 4: {
              const std::scoped_lock lock(device.mutex);
              vfio::PinnedPages pins;
              if (!device.pinned && iommu_.pin_pages(iova + 0x1000, 1, Prot::read, pins)) {
                device.pinned = iova + 0x1000;
              }
              break;
            }
            default: {
              const std::scoped_lock lock(device.mutex);
              if (device.pinned) iommu_.unpin_pages(*device.pinned, 1);
              device.pinned.reset();
            }
          }
        }
      });
    }
  }
  EXPECT_TRUE(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL));
  EXPECT_EQ(iommu_.usage().mappings, 0u);
  EXPECT_EQ(space_->locked().pages(), 0u);
}

}  // namespace
}  // namespace uvfio::iommu::type1
