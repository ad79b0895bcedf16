// Real groups: domains, replay, mixed containers, accounts, and the DMA of devices behind a unit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "base/rcu.h"
#include "iommu/type1/type1.h"
#include "iommu/unit/fault_queue.h"
#include "tests/support/fake_address_space.h"

namespace uvfio::iommu::type1 {
namespace {

using ::testing::ElementsAre;
using testing::FakeAddressSpace;
using ::testing::IsEmpty;

constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kBase = 0x10000000;
constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint32_t kRead = VFIO_DMA_MAP_FLAG_READ;
constexpr std::uint32_t kReadWrite = kRead | VFIO_DMA_MAP_FLAG_WRITE;

class Pinner final : public vfio::DmaClient {
 public:
  void dma_unmap(std::uint64_t, std::uint64_t) override {
    for (const auto& [iova, pages] : held) iommu->unpin_pages(iova, pages);
    held.clear();
  }
  Type1* iommu = nullptr;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> held;
};

class DomainsTest : public ::testing::Test {
 protected:
  ~DomainsTest() override {
    if (pinner_.iommu != nullptr) iommu_->unregister_device(pinner_);
  }

  std::shared_ptr<Unit> unit(UnitProperties properties = {}) {
    return std::make_shared<Unit>(std::move(properties));
  }
  IommuGroup& real(std::shared_ptr<Unit> unit, std::vector<ReservedRegion> reserved = {}) {
    const auto id = static_cast<unsigned>(groups_.size());
    groups_.push_back(
        std::make_unique<IommuGroup>(id, GroupType::real, std::move(unit), std::move(reserved)));
    return *groups_.back();
  }
  IommuGroup& emulated() {
    groups_.push_back(std::make_unique<IommuGroup>(groups_.size(), GroupType::emulated));
    return *groups_.back();
  }
  Status map(std::uint64_t iova, std::uint64_t page, std::uint64_t pages,
             std::uint32_t flags = kReadWrite) {
    return iommu_->map(
        {.iova = iova, .vaddr = kBase + page * kPage, .size = pages * kPage, .flags = flags},
        {.space = space_, .lock_cap = lock_cap_});
  }
  Result<std::uint64_t> unmap(std::uint64_t iova, std::uint64_t pages, std::uint32_t flags = 0) {
    return iommu_->unmap({.iova = iova, .size = pages * kPage, .flags = flags});
  }
  Status pin(std::uint64_t iova, std::uint64_t pages) {
    if (pinner_.iommu == nullptr) {
      pinner_.iommu = iommu_.get();
      iommu_->register_device(pinner_);
    }
    vfio::PinnedPages pins;
    auto pinned = iommu_->pin_pages(iova, pages, Prot::read_write, pins);
    if (pinned) pinner_.held.emplace_back(iova, pages);
    return pinned;
  }
  std::uint64_t charged() { return space_->locked().pages(); }
  std::shared_ptr<DmaPath> path(IommuGroup& group) {
    return *iommu_->dma_path(iommu_, group, "0000:01:00.0");
  }
  bool reaches(IommuGroup& group, std::uint64_t iova, Prot prot = Prot::read) {
    const auto way = path(group);
    const rcu::ReadGuard guard;
    return way->translate(iova, 1, prot).has_value();
  }

  std::shared_ptr<FakeAddressSpace> space_ = std::make_shared<FakeAddressSpace>(kBase, 64 * kPage);
  bool lock_cap_ = false;
  std::vector<std::unique_ptr<IommuGroup>> groups_;
  std::shared_ptr<Parameters> parameters_ = std::make_shared<Parameters>();
  std::shared_ptr<Type1> iommu_ = std::make_shared<Type1>(true, parameters_, 1);
  Pinner pinner_;
};

TEST_F(DomainsTest, TheRangesAreTheApertureWithoutReservedRegions) {
  EXPECT_THAT(iommu_->info().ranges, IsEmpty());
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  EXPECT_EQ(iommu_->info().page_sizes, 0x40201000u);
  EXPECT_THAT(iommu_->info().ranges,
              ElementsAre(IovaRanges::Range{0, 0xfedfffff},
                          IovaRanges::Range{0xfef00000, (std::uint64_t{1} << 48) - 1}));
  EXPECT_EQ(map(0xfee00000, 0, 1), fail(EINVAL));
  EXPECT_EQ(map(0xfedff000, 0, 2), fail(EINVAL)) << "into the hole";
  EXPECT_EQ(map(std::uint64_t{1} << 48, 0, 1), fail(EINVAL));
  EXPECT_TRUE(map((std::uint64_t{1} << 48) - kPage, 0, 1));
  EXPECT_EQ(iommu_->attach_group(group), fail(EINVAL)) << "it is in here already";
}

TEST_F(DomainsTest, MapPinsChargesAndUnmapGivesBack) {
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x100000, 0, 8));
  EXPECT_EQ(charged(), 8u);
  EXPECT_TRUE(reaches(group, 0x100000 + 8 * kPage - 1));
  EXPECT_EQ(map(0x200000, 60, 8), fail(EFAULT)) << "behind the client's memory";
  space_->limit = 10;
  EXPECT_EQ(map(0x200000, 0, 3), fail(ENOMEM));
  EXPECT_EQ(map(0x200000, 61, 8), fail(ENOMEM)) << "the limit comes before the hole";
  EXPECT_EQ(map(0x200000, 62, 8), fail(EFAULT)) << "the hole comes before the limit";
  EXPECT_EQ(charged(), 8u);
  lock_cap_ = true;
  EXPECT_TRUE(map(0x200000, 0, 3));
  EXPECT_EQ(charged(), 11u);
  EXPECT_EQ(*unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL), 11 * kPage);
  EXPECT_EQ(charged(), 0u);
  EXPECT_FALSE(reaches(group, 0x100000));
  EXPECT_EQ(iommu_->info().dma_avail, 65535u);
  space_->read_only = true;
  EXPECT_EQ(map(0, 0, 1), fail(EFAULT));
  EXPECT_TRUE(map(0, 0, 1, kRead));
}

TEST_F(DomainsTest, CompatibleUnitsShareADomain) {
  IommuGroup& first = real(unit());
  IommuGroup& second = real(unit({.name = "iommu1"}));
  ASSERT_TRUE(iommu_->attach_group(first));
  ASSERT_TRUE(map(0x100000, 0, 4));
  ASSERT_TRUE(iommu_->attach_group(second));
  EXPECT_EQ(iommu_->snapshot().domains.size(), 1u);
  EXPECT_TRUE(reaches(second, 0x100000));
  iommu_->detach_group(first);
  EXPECT_TRUE(reaches(second, 0x100000));
  iommu_->detach_group(second);
  EXPECT_EQ(charged(), 0u);
  EXPECT_EQ(iommu_->usage().mappings, 0u);
}

TEST_F(DomainsTest, UnitsThatDifferGetDomainsOfTheirOwn) {
  IommuGroup& snooping = real(unit());
  IommuGroup& plain = real(unit({.name = "iommu1", .snoop_control = false}));
  IommuGroup& small = real(unit({.name = "iommu2",
                                 .page_sizes = 0x211000,
                                 .aperture_last = 0xffffffff,
                                 .snoop_control = false}));
  ASSERT_TRUE(iommu_->attach_group(snooping));
  EXPECT_EQ(iommu_->check_extension(VFIO_DMA_CC_IOMMU), 1);
  ASSERT_TRUE(map(0x100000, 0, 16));
  ASSERT_TRUE(iommu_->attach_group(plain));
  EXPECT_EQ(iommu_->check_extension(VFIO_DMA_CC_IOMMU), 0);
  EXPECT_EQ(iommu_->snapshot().domains.size(), 2u);
  EXPECT_TRUE(reaches(plain, 0x100000)) << "replayed";
  EXPECT_EQ(charged(), 16u) << "charged once";

  ASSERT_TRUE(iommu_->attach_group(small));
  EXPECT_EQ(iommu_->info().page_sizes, 0x201000u) << "what all of them have";
  EXPECT_EQ(iommu_->info().ranges.back().last, 0xffffffffu);
  EXPECT_EQ(map(0x1'0000'0000, 0, 16), fail(EINVAL));
  iommu_->detach_group(small);
  EXPECT_EQ(iommu_->info().ranges.back().last, (std::uint64_t{1} << 48) - 1);
  iommu_->detach_group(plain);
  EXPECT_EQ(iommu_->check_extension(VFIO_DMA_CC_IOMMU), 1);
  EXPECT_TRUE(reaches(snooping, 0x100000));
}

TEST_F(DomainsTest, OneDomainRefusesAndNothingChanges) {
  const std::uint64_t table = PageTable(0x1000, kMax >> 16, 0).memory_bytes();
  IommuGroup& roomy = real(unit());
  IommuGroup& tight =
      real(unit({.name = "iommu1", .implementation = "other", .table_limit = 4 * table}));
  ASSERT_TRUE(iommu_->attach_group(roomy));
  ASSERT_TRUE(iommu_->attach_group(tight));
  ASSERT_TRUE(map(0x100000, 0, 1));
  EXPECT_EQ(map(0x80000000, 1, 1), fail(ENOMEM));
  EXPECT_EQ(charged(), 1u);
  EXPECT_EQ(iommu_->info().dma_avail, 65534u);
  EXPECT_FALSE(reaches(roomy, 0x80000000));
  EXPECT_TRUE(map(0x101000, 1, 1)) << "this one needs no table more";
}

TEST_F(DomainsTest, AGroupThatDoesNotFitChangesNothing) {
  ASSERT_TRUE(iommu_->attach_group(real(unit({.implementation = "a"}))));
  ASSERT_TRUE(map(0x100000, 0, 1));
  ASSERT_TRUE(map(0x1'0000'0000, 1, 1));
  const auto before = iommu_->info();
  EXPECT_EQ(iommu_->attach_group(real(unit({.aperture_last = 0xffffffff}))), fail(EINVAL))
      << "a mapping lies beyond its aperture";
  EXPECT_EQ(iommu_->attach_group(real(unit({.aperture_first = std::uint64_t{1} << 50,
                                            .aperture_last = std::uint64_t{1} << 51}))),
            fail(EINVAL));
  const ReservedRegion direct{
      .first = 0x100000, .last = 0x1fffff, .kind = ReservedRegion::Kind::direct};
  EXPECT_EQ(iommu_->attach_group(real(unit(), {direct})), fail(EINVAL));
  EXPECT_EQ(iommu_->attach_group(real(unit(), {{.first = 0, .last = kMax}})), fail(EINVAL));
  EXPECT_EQ(iommu_->attach_group(real(unit({.page_sizes = 0x10000}))), fail(EINVAL));
  EXPECT_EQ(iommu_->attach_group(real(unit({.page_sizes = 0x40000000}))), fail(EINVAL))
      << "the mappings are of smaller pages";
  EXPECT_EQ(iommu_->attach_group(real(unit({.isolated_msi = false}))), fail(EPERM));
  EXPECT_EQ(iommu_->info().ranges, before.ranges);
  EXPECT_EQ(iommu_->snapshot().domains.size(), 1u);
  parameters_->allow_unsafe_interrupts = true;
  EXPECT_TRUE(iommu_->attach_group(real(unit({.isolated_msi = false}))));
  ReservedRegion relaxable = direct;
  relaxable.kind = ReservedRegion::Kind::direct_relaxable;
  EXPECT_TRUE(iommu_->attach_group(real(unit(), {relaxable})));
}

TEST_F(DomainsTest, ReplayThatFailsIsUndone) {
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  ASSERT_TRUE(map(0x100000, 0, 4));
  ASSERT_TRUE(map(0x200000, 62, 4)) << "nobody looks at the memory of a mediated container";
  ASSERT_TRUE(pin(0x100000, 2));
  EXPECT_EQ(charged(), 2u);
  IommuGroup& group = real(unit());
  EXPECT_EQ(iommu_->attach_group(group), fail(EFAULT));
  EXPECT_EQ(charged(), 2u);
  EXPECT_THAT(iommu_->info().ranges, IsEmpty());
  ASSERT_TRUE(unmap(0x200000, 4));
  space_->limit = 3;
  EXPECT_EQ(iommu_->attach_group(group), fail(ENOMEM));
  EXPECT_EQ(charged(), 2u);
  space_->limit = 4;
  EXPECT_TRUE(iommu_->attach_group(group)) << "2 of the 4 pages are charged already";
  EXPECT_EQ(charged(), 4u);
}

TEST_F(DomainsTest, MediatedBesideADirectDevice) {
  IommuGroup& direct = real(unit());
  IommuGroup& mediated = emulated();
  ASSERT_TRUE(iommu_->attach_group(direct));
  ASSERT_TRUE(map(0x100000, 0, 8));
  ASSERT_TRUE(iommu_->attach_group(mediated));  // hot-plugged
  ASSERT_TRUE(pin(0x100000, 4));
  EXPECT_EQ(charged(), 8u) << "the domain has them pinned and charged";
  iommu_->detach_group(direct);  // hot-unplugged
  EXPECT_EQ(charged(), 4u) << "what the mediated device holds";
  EXPECT_THAT(iommu_->info().ranges, ElementsAre(IovaRanges::Range{0, kMax}));
  EXPECT_EQ(iommu_->usage().mappings, 1u);
  ASSERT_TRUE(iommu_->attach_group(direct));
  EXPECT_EQ(charged(), 8u);
  iommu_->unpin_pages(0x100000, 4);
  pinner_.held.clear();
  EXPECT_EQ(charged(), 8u);
  iommu_->detach_group(mediated);
  EXPECT_EQ(charged(), 8u);
  EXPECT_TRUE(reaches(direct, 0x100000));
  iommu_->detach_group(direct);
  EXPECT_EQ(charged(), 0u);
}

TEST_F(DomainsTest, UnmapAsksMediatedDevicesInAMixedContainer) {
  ASSERT_TRUE(iommu_->attach_group(real(unit())));
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  ASSERT_TRUE(map(0x100000, 0, 8));
  ASSERT_TRUE(pin(0x102000, 2));
  EXPECT_EQ(*unmap(0x100000, 8), 8 * kPage);
  EXPECT_THAT(pinner_.held, IsEmpty());
  EXPECT_EQ(charged(), 0u);
}

TEST_F(DomainsTest, ByAddressSpaceAPageIsChargedOnce) {
  parameters_->accounting = Accounting::per_address_space;
  iommu_ = std::make_shared<Type1>(true, parameters_, 1);
  const auto other = std::make_shared<Type1>(true, parameters_, 2);
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  IommuGroup& another = emulated();
  ASSERT_TRUE(other->attach_group(another));
  ASSERT_TRUE(map(0x100000, 0, 8));
  ASSERT_TRUE(map(0x200000, 4, 8)) << "4 pages are in both";
  EXPECT_EQ(charged(), 12u);
  ASSERT_TRUE(other->map({.iova = 0, .vaddr = kBase, .size = 16 * kPage, .flags = kReadWrite},
                         {.space = space_}));
  Pinner pinner;
  pinner.iommu = other.get();
  other->register_device(pinner);
  vfio::PinnedPages pins;
  ASSERT_TRUE(other->pin_pages(10 * kPage, 4, Prot::read, pins));
  EXPECT_EQ(charged(), 14u);
  ASSERT_TRUE(other->pin_pages(9 * kPage, 4, Prot::read, pins));
  EXPECT_EQ(charged(), 14u);
  ASSERT_TRUE(pin(0x100000, 8));
  EXPECT_EQ(charged(), 14u);
  iommu_->detach_group(group);
  EXPECT_EQ(charged(), 8u + 5u) << "pages 0 to 7 here, 9 to 13 there";
  other->unpin_pages(9 * kPage, 4);
  EXPECT_EQ(charged(), 8u + 4u);
  other->unpin_pages(10 * kPage, 4);
  EXPECT_EQ(charged(), 8u);
  other->unregister_device(pinner);
  ASSERT_TRUE(unmap(0, 0, VFIO_DMA_UNMAP_FLAG_ALL));
  EXPECT_EQ(charged(), 0u);
}

TEST_F(DomainsTest, AccessThatIsNotAllowedFaultsAndReachesNothing) {
  const auto behind = unit();
  IommuGroup& group = real(behind);
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x100000, 0, 1, kRead));
  const auto way = path(group);
  std::array<std::byte, 16> data{};
  EXPECT_TRUE(way->read(0x100000, data));
  EXPECT_EQ(way->write(0x100000, data), fail(EPERM));
  EXPECT_EQ(way->read(0x101000 - 8, data), fail(EINVAL)) << "leaves the mapping";
  EXPECT_EQ(way->read(0x500000, data), fail(EINVAL));
  const auto faults = behind->faults().recent();
  ASSERT_EQ(faults.size(), 3u);
  EXPECT_EQ(faults[0].device, "0000:01:00.0");
  EXPECT_EQ(faults[0].iova, 0x100000u);
  EXPECT_EQ(faults[0].access, Prot::write);
  EXPECT_EQ(faults[0].reason, Fault::Reason::not_permitted);
  EXPECT_EQ(faults[1].iova, 0x101000u);
  EXPECT_EQ(faults[1].reason, Fault::Reason::not_present);
  for (int i = 0; i < 1000; ++i) static_cast<void>(way->read(0x500000, data));
  EXPECT_EQ(behind->faults().recent().size(), FaultQueue::kCapacity);
  EXPECT_EQ(behind->faults().total(), 1003u);
}

TEST_F(DomainsTest, DmaCrossesPagesMappingsAndKindsOfMemory) {
  const auto copied =
      std::make_shared<FakeAddressSpace>(kBase, 4 * kPage, FakeAddressSpace::Kind::private_memory);
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x100000, 0, 2));
  ASSERT_TRUE(iommu_->map(
      {.iova = 0x102000, .vaddr = kBase + kPage, .size = 2 * kPage, .flags = kReadWrite},
      {.space = copied}));
  std::vector<std::byte> data(4 * kPage);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7 / 3);
  const auto way = path(group);
  ASSERT_TRUE(way->write(0x100000, data));
  EXPECT_EQ(std::memcmp(space_->memory.data(), data.data(), 2 * kPage), 0);
  EXPECT_EQ(std::memcmp(copied->memory.data() + kPage, data.data() + 2 * kPage, 2 * kPage), 0);
  std::vector<std::byte> back(4 * kPage);
  ASSERT_TRUE(way->read(0x100000, back));
  EXPECT_EQ(back, data);
  {
    const rcu::ReadGuard guard;
    const auto two = way->translate(0x100ff0, 32, Prot::read);
    ASSERT_TRUE(two) << "two pages, one piece of memory";
    EXPECT_EQ(two->host, space_->memory.data());
    EXPECT_EQ(way->translate(0x101ff0, 32, Prot::read).error(), Errno{EOPNOTSUPP});
    EXPECT_EQ(way->translate(0x102000, 32, Prot::read)->host, nullptr);
  }
  Users* users = nullptr;
  const rcu::ReadGuard guard;
  EXPECT_EQ(way->hold(0x102000, 8, Prot::read, users).error(), Errno{EOPNOTSUPP});
}

TEST_F(DomainsTest, TheIotlbForgetsWhatIsUnmapped) {
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x100000, 0, 1));
  const auto way = path(group);
  {
    const rcu::ReadGuard guard;
    EXPECT_EQ(way->translate(0x100000, 8, Prot::read)->host, space_->memory.data());
  }
  ASSERT_TRUE(unmap(0x100000, 1));
  {
    const rcu::ReadGuard guard;
    EXPECT_FALSE(way->translate(0x100000, 8, Prot::read));
  }
  ASSERT_TRUE(map(0x100000, 5, 1));
  const rcu::ReadGuard guard;
  EXPECT_EQ(way->translate(0x100000, 8, Prot::read)->host, space_->memory.data() + 5 * kPage);
}

TEST_F(DomainsTest, HugePagesCanBeSwitchedOff) {
  parameters_->disable_hugepages = true;
  space_ = std::make_shared<FakeAddressSpace>(kBase, 1024 * kPage);
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x200000, 0, 512));
  EXPECT_EQ(iommu_->snapshot().domains[0].leaves[0], 512u);
  parameters_->disable_hugepages = false;
  ASSERT_TRUE(map(0x400000, 512, 512));
  EXPECT_EQ(iommu_->snapshot().domains[0].leaves[1], 1u);
}

TEST_F(DomainsTest, VaddrGivenAnewByTheSameProcessIsChargedAsBefore) {
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  ASSERT_TRUE(map(0x100000, 0, 4));
  ASSERT_TRUE(unmap(0x100000, 4, VFIO_DMA_UNMAP_FLAG_VADDR));
  lock_cap_ = true;
  ASSERT_TRUE(map(0x100000, 0, 4, VFIO_DMA_MAP_FLAG_VADDR));
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  iommu_->detach_group(group);
  space_->limit = 3;
  EXPECT_EQ(iommu_->attach_group(group), fail(ENOMEM)) << "CAP_IPC_LOCK came after the mapping";
  space_->limit = 4;
  EXPECT_TRUE(iommu_->attach_group(group));
}

TEST_F(DomainsTest, VaddrIsGivenUpAndGivenAnew) {
  constexpr std::uint32_t kUnmapVaddr = VFIO_DMA_UNMAP_FLAG_VADDR;
  constexpr std::uint32_t kMapVaddr = VFIO_DMA_MAP_FLAG_VADDR;
  IommuGroup& group = real(unit());
  ASSERT_TRUE(iommu_->attach_group(group));
  EXPECT_EQ(iommu_->check_extension(VFIO_UPDATE_VADDR), 1);
  ASSERT_TRUE(map(0x100000, 0, 4));
  ASSERT_TRUE(map(0x104000, 4, 4));
  EXPECT_EQ(map(0x100000, 0, 4, kMapVaddr), fail(EINVAL)) << "it has one";
  EXPECT_EQ(map(0x900000, 0, 4, kMapVaddr), fail(ENOENT));
  EXPECT_EQ(*unmap(0x100000, 4, kUnmapVaddr), 4 * kPage);
  EXPECT_EQ(unmap(0x100000, 8, kUnmapVaddr).error(), Errno{EINVAL}) << "one is invalid already";
  EXPECT_EQ(*unmap(0x104000, 4, kUnmapVaddr), 4 * kPage) << "the mark above was undone";
  EXPECT_EQ(iommu_->attach_group(real(unit())), fail(EBUSY));
  EXPECT_TRUE(reaches(group, 0x100000)) << "DMA goes on";
  std::array<std::byte, 8> data{};
  EXPECT_EQ(iommu_->dma_read(0x100000, data), fail(EBUSY));
  EXPECT_EQ(map(0x100000, 0, 3, kMapVaddr), fail(EINVAL)) << "not its size";

  // Another process goes on.
  const auto heir = std::make_shared<FakeAddressSpace>(kBase, 64 * kPage);
  const auto give = [&](std::uint64_t iova) {
    return iommu_->map({.iova = iova, .vaddr = kBase, .size = 4 * kPage, .flags = kMapVaddr},
                       {.space = heir});
  };
  heir->limit = 3;
  EXPECT_EQ(give(0x100000), fail(ENOMEM));
  EXPECT_EQ(charged(), 8u);
  heir->limit = 4;
  ASSERT_TRUE(give(0x100000));
  EXPECT_EQ(charged(), 4u);
  EXPECT_EQ(heir->locked().pages(), 4u);
  EXPECT_EQ(*unmap(0x104000, 4), 4 * kPage) << "an invalid mapping can go";
  EXPECT_TRUE(iommu_->dma_read(0x100000, data));
  EXPECT_TRUE(iommu_->attach_group(emulated()));
  EXPECT_EQ(unmap(0x100000, 4, kUnmapVaddr).error(), Errno{EBUSY});
}

class Words : public UserBitmap {
 public:
  explicit Words(std::size_t size) : words(size) {}
  Result<std::uint64_t> read(std::uint64_t word) override { return words.at(word); }
  Status write(std::uint64_t word, std::span<const std::uint64_t> data) override {
    std::ranges::copy(data, words.begin() + static_cast<std::ptrdiff_t>(word));
    return {};
  }
  std::vector<std::uint64_t> words;
};

TEST_F(DomainsTest, EverythingIsDirtyAsLongAsNobodyKnowsBetter) {
  IommuGroup& direct = real(unit());
  ASSERT_TRUE(iommu_->attach_group(direct));
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  ASSERT_TRUE(map(0x100000, 0, 64));
  ASSERT_TRUE(iommu_->start_dirty_tracking());
  Words words(1);
  ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words));
  EXPECT_EQ(words.words[0], kMax);
  ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words));
  EXPECT_EQ(words.words[0], kMax);
  ASSERT_TRUE(pin(0x102000, 1));
  iommu_->detach_group(direct);
  ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words));
  EXPECT_EQ(words.words[0], kMax) << "once more, for what it has written last";
  ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words));
  EXPECT_EQ(words.words[0], 4u) << "the pinned page";
}

TEST_F(DomainsTest, AMapThatFailsHalfWayWaitsForDevices) {
  const std::uint64_t table = PageTable(0x1000, kMax >> 16, 0).memory_bytes();
  IommuGroup& tight = real(unit({.page_sizes = 0x1000, .table_limit = 5 * table}));
  ASSERT_TRUE(iommu_->attach_group(tight));
  ASSERT_TRUE(map(0x100000, 0, 1));
  std::atomic<unsigned> returned = 0;
  std::atomic<bool> seen = false;
  std::thread device([&] {
    const auto way = path(tight);
    while (!seen) {
      const rcu::ReadGuard guard;
      if (!way->translate(0x3ff000, 8, Prot::read)) continue;
      const unsigned before = returned;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(returned, before) << "it has to wait for this section";
      seen = true;
    }
  });
  while (!seen) {
    ASSERT_EQ(map(0x3fe000, 1, 4), fail(ENOMEM)) << "a table for two pages, none for the others";
    ++returned;
  }
  device.join();
  EXPECT_EQ(charged(), 1u);
}

// Each write begins before the one before it has ended.
TEST_F(DomainsTest, AReportOfDirtyPagesWaitsForThoseWhoAreThereOnly) {
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  ASSERT_TRUE(map(0x100000, 0, 64));
  ASSERT_TRUE(iommu_->resolve(0x100000));
  ASSERT_TRUE(iommu_->start_dirty_tracking());
  std::atomic<bool> stop = false;
  std::atomic<bool> begun = false;
  std::thread device([&] {
    const auto hold = [&] {
      Users* users = nullptr;
      const rcu::ReadGuard guard;
      EXPECT_TRUE(iommu_->hold(0x105000, 8, Prot::read_write, users));
      return users;
    };
    Users* last = hold();
    for (begun = true; !stop;) {
      Users* next = hold();
      last->leave();
      last = next;
    }
    last->leave();
  });
  while (!begun) std::this_thread::yield();
  Words words(1);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words));
    EXPECT_EQ(words.words[0] & ~0x20u, 0u);
  }
  stop = true;
  device.join();
  ASSERT_TRUE(unmap(0x100000, 64));
}

TEST_F(DomainsTest, DirtyBitsStandForTheSmallestPage) {
  ASSERT_TRUE(iommu_->attach_group(emulated()));
  ASSERT_TRUE(map(0x100000, 0, 64));
  ASSERT_TRUE(iommu_->start_dirty_tracking());
  IommuGroup& direct = real(unit({.page_sizes = 0x10000}));
  ASSERT_TRUE(iommu_->attach_group(direct));
  Words words(1);
  EXPECT_EQ(iommu_->report_dirty(0x100000, 64 * kPage, kPage, words), fail(EINVAL));
  ASSERT_TRUE(iommu_->report_dirty(0x100000, 64 * kPage, 0x10000, words));
  EXPECT_EQ(words.words[0], 0xfu) << "4 pages of 64 KiB";
  EXPECT_EQ(map(0x201000, 0, 16), fail(EINVAL));
}

TEST_F(DomainsTest, TheMapperMayDie) {
  IommuGroup& direct = real(unit());
  ASSERT_TRUE(iommu_->attach_group(direct));
  ASSERT_TRUE(map(0x100000, 0, 4));
  space_->dead = true;
  EXPECT_TRUE(reaches(direct, 0x100000)) << "the pages are still there";
  EXPECT_EQ(map(0x200000, 0, 4), fail(EFAULT));
  EXPECT_EQ(*unmap(0x100000, 4), 4 * kPage);
  EXPECT_EQ(charged(), 0u);
}

}  // namespace
}  // namespace uvfio::iommu::type1
