// Everybody at once: threads that map, unmap, pin, do DMA of both kinds and track dirty pages,
// while groups come and go. What is checked is that nothing is left behind and nobody reads what is
// not his; the sanitizers check the rest.

#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <atomic>
#include <cstring>
#include <latch>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "base/rcu.h"
#include "iommu/type1/type1.h"
#include "iommu/users.h"
#include "tests/support/fake_address_space.h"
#include "uvfio/vfio.h"

namespace uvfio::iommu::type1 {
namespace {

constexpr std::uint64_t kPage = memory::kPageSize;
constexpr std::uint64_t kBase = 0x10000000;
constexpr std::uint64_t kPages = 256;
constexpr int kRounds = 400;

// A mediated device: keeps its pins by IOVA, and lets go of them when it is asked to.
class Pinner final : public vfio::DmaClient {
 public:
  explicit Pinner(Type1& iommu) : iommu_(iommu) { iommu_.register_device(*this); }
  ~Pinner() override {
    dma_unmap(0, 0);
    iommu_.unregister_device(*this);
  }
  void dma_unmap(std::uint64_t iova, std::uint64_t size) override {
    const std::scoped_lock lock(mutex_);
    for (auto at = held_.begin(); at != held_.end();) {
      if (at->first < iova || at->first - iova > size - 1) {
        ++at;
        continue;
      }
      iommu_.unpin_pages(at->first, at->second);
      at = held_.erase(at);
    }
  }
  void pin(std::uint64_t iova, std::uint64_t pages) {
    vfio::PinnedPages pins;
    const std::scoped_lock lock(mutex_);
    if (held_.contains(iova)) return;
    if (iommu_.pin_pages(iova, pages, Prot::read, pins)) held_.emplace(iova, pages);
  }

 private:
  Type1& iommu_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> held_;
};

class ConcurrencyTest : public ::testing::TestWithParam<Accounting> {
 protected:
  using Random = std::mt19937_64;

  void start(std::function<void(Random&)> work) {
    threads_.emplace_back([this, work = std::move(work), seed = threads_.size()] {
      start_.arrive_and_wait();
      Random random(seed);
      for (int round = 0; round < kRounds; ++round) work(random);
    });
  }
  // Page n of the IOVAs leads to page n of the memory, whoever has mapped it.
  Status map(std::uint64_t page, std::uint64_t pages) {
    return iommu_->map({.iova = page * kPage,
                        .vaddr = kBase + page * kPage,
                        .size = pages * kPage,
                        .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE},
                       {.space = space_});
  }

  std::shared_ptr<Parameters> parameters_ = [] {
    auto parameters = std::make_shared<Parameters>();
    parameters->accounting = GetParam();
    return parameters;
  }();
  std::shared_ptr<testing::FakeAddressSpace> space_ =
      std::make_shared<testing::FakeAddressSpace>(kBase, kPages* kPage);
  std::shared_ptr<Type1> iommu_ = std::make_shared<Type1>(true, parameters_, 1);
  std::vector<std::thread> threads_;
  std::latch start_{10};
};

TEST_P(ConcurrencyTest, EverythingAtOnce) {
  for (std::uint64_t page = 0; page < kPages; ++page)
    std::memcpy(space_->memory.data() + page * kPage, &page, sizeof page);
  const auto unit = std::make_shared<Unit>(UnitProperties{});
  const auto other = std::make_shared<Unit>(UnitProperties{.name = "b", .implementation = "b"});
  IommuGroup fixed(0, GroupType::real, unit);
  IommuGroup mediated(1, GroupType::emulated);
  IommuGroup plugged(2, GroupType::real, other);
  IommuGroup plugged_too(3, GroupType::emulated);
  ASSERT_TRUE(iommu_->attach_group(fixed));
  ASSERT_TRUE(iommu_->attach_group(mediated));
  ASSERT_TRUE(map(0, kPages));
  Pinner pinner(*iommu_);
  std::atomic<int> wrong = 0;

  // Each writes in a place of its own, so that only uvfio's own races can be seen.
  const auto dma = [&](IommuGroup& group, std::uint64_t place) {
    return [&, place, path = *iommu_->dma_path(iommu_, group, "device")](Random& random) {
      const std::uint64_t page = random() % kPages;
      std::uint64_t seen = 0;
      if (path->read(page * kPage, std::as_writable_bytes(std::span(&seen, 1)))) {
        wrong += seen == page ? 0 : 1;
        static_cast<void>(
            path->write(page * kPage + 64 * place, std::as_bytes(std::span(&page, 1))));
      }
      Users* users = nullptr;
      Result<std::byte*> held = fail(EINVAL);
      {
        const rcu::ReadGuard guard;
        held = path->hold(page * kPage, 8, Prot::read, users);
      }
      if (!held) return;
      std::memcpy(&seen, *held, sizeof seen);
      wrong += seen == page ? 0 : 1;
      users->leave();
    };
  };
  for (int i = 0; i < 2; ++i) {
    start([&](Random& random) {
      const std::uint64_t page = random() % kPages;
      static_cast<void>(map(page, 1 + random() % std::min<std::uint64_t>(8, kPages - page)));
    });
  }
  start([&](Random& random) {
    const std::uint64_t page = random() % kPages;
    static_cast<void>(
        iommu_->unmap({.iova = page * kPage, .size = (1 + random() % 16) * kPage, .flags = 0}));
    if (random() % 32 == 0) static_cast<void>(iommu_->unmap({.flags = VFIO_DMA_UNMAP_FLAG_ALL}));
  });
  for (int i = 0; i < 2; ++i)
    start([&](Random& random) { pinner.pin(random() % kPages * kPage, 1 + random() % 4); });
  start(dma(fixed, 1));
  start(dma(fixed, 2));
  start(dma(mediated, 3));
  start([&](Random& random) {
    static_cast<void>(iommu_->start_dirty_tracking());
    if (random() % 4 == 0) iommu_->stop_dirty_tracking();
  });
  start([&](Random& random) {
    IommuGroup& group = random() % 2 == 0 ? plugged : plugged_too;
    if (!iommu_->attach_group(group)) return;
    static_cast<void>(iommu_->snapshot());
    iommu_->detach_group(group);
  });
  for (auto& thread : threads_) thread.join();

  EXPECT_EQ(wrong, 0);
  const auto snapshot = iommu_->snapshot();
  std::uint64_t mapped = 0;
  for (const auto& mapping : snapshot.mappings) mapped += mapping.size / kPage;
  EXPECT_EQ(space_->locked().pages(), mapped) << "one domain, so all that is mapped is charged";
  EXPECT_EQ(snapshot.domains.size(), 1u);
  ASSERT_TRUE(iommu_->unmap({.flags = VFIO_DMA_UNMAP_FLAG_ALL}));
  EXPECT_EQ(space_->locked().pages(), 0u);
  EXPECT_EQ(iommu_->usage().pinned_pages, 0u);
  EXPECT_EQ(iommu_->info().dma_avail, 65535u);
}

INSTANTIATE_TEST_SUITE_P(Accounting, ConcurrencyTest,
                         ::testing::Values(Accounting::per_mapping, Accounting::per_address_space));

}  // namespace
}  // namespace uvfio::iommu::type1
