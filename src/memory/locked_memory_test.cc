#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

TEST(LockedMemory, StopsAtTheLimitAndAddsNothing) {
  LockedMemory locked;
  EXPECT_TRUE(locked.charge(6, 10));
  EXPECT_EQ(locked.charge(5, 10).error(), Errno{ENOMEM});
  EXPECT_EQ(locked.pages(), 6u);
  EXPECT_TRUE(locked.charge(4, 10));
  locked.uncharge(10);
  EXPECT_EQ(locked.pages(), 0u);
}

TEST(LockedMemory, DoesNotOverflow) {
  LockedMemory locked;
  EXPECT_TRUE(locked.charge(2, kUnlimited));
  EXPECT_EQ(locked.charge(kUnlimited, kUnlimited).error(), Errno{ENOMEM});
  EXPECT_EQ(locked.charge(kUnlimited - 1, kUnlimited).error(), Errno{ENOMEM});
  EXPECT_EQ(locked.pages(), 2u);
}

TEST(LockedMemory, ALimitThatSankBelowIsNoUnderflow) {
  LockedMemory locked;
  EXPECT_TRUE(locked.charge(8, 10));
  EXPECT_EQ(locked.charge(1, 4).error(), Errno{ENOMEM});
  EXPECT_TRUE(locked.charge(0, 4));
}

TEST(LockedMemory, NamesItsHolders) {
  LockedMemory locked;
  EXPECT_TRUE(locked.charge(3, kUnlimited, 1));
  EXPECT_TRUE(locked.charge(4, kUnlimited, 2));
  EXPECT_TRUE(locked.charge(1, kUnlimited, 1));
  EXPECT_EQ(locked.holders(), (std::map<LockedMemory::Holder, std::uint64_t>{{1, 4}, {2, 4}}));
  locked.uncharge(4, 1);
  EXPECT_EQ(locked.holders(), (std::map<LockedMemory::Holder, std::uint64_t>{{2, 4}}));
}

TEST(LockedMemory, RangesCountAPageOnce) {
  LockedMemory locked;
  EXPECT_TRUE(locked.charge_range(10, 10, 15, 1));
  EXPECT_TRUE(locked.charge_range(15, 10, 15, 2)) << "5 of them are new";
  EXPECT_EQ(locked.pages(), 15u);
  EXPECT_TRUE(locked.charge_range(10, 15, 15, 3));
  EXPECT_EQ(locked.charge_range(9, 2, 15, 3), fail(ENOMEM));
  EXPECT_EQ(locked.pages(), 15u);
  locked.uncharge_range(10, 10, 1);
  EXPECT_EQ(locked.pages(), 15u);
  locked.uncharge_range(10, 15, 3);
  EXPECT_EQ(locked.pages(), 10u);
  EXPECT_EQ(locked.holders(), (std::map<LockedMemory::Holder, std::uint64_t>{{2, 10}}));
  locked.uncharge_range(15, 10, 2);
  EXPECT_EQ(locked.pages(), 0u);
}

TEST(LockedMemory, RangesMatchASimpleCount) {
  LockedMemory locked;
  std::mt19937 random(1);
  std::vector<unsigned> counts(64);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> charged;
  for (int step = 0; step < 5000; ++step) {
    if (charged.empty() || random() % 2 == 0) {
      const std::uint64_t first = random() % 60;
      const std::uint64_t pages = 1 + random() % (64 - first);
      const std::uint64_t limit = random() % 70;
      std::uint64_t fresh = 0;
      for (auto page = first; page < first + pages; ++page) fresh += counts[page] == 0 ? 1 : 0;
      const bool fits = fresh == 0 || locked.pages() + fresh <= limit;
      ASSERT_EQ(locked.charge_range(first, pages, limit).has_value(), fits);
      if (!fits) continue;
      for (auto page = first; page < first + pages; ++page) ++counts[page];
      charged.emplace_back(first, pages);
    } else {
      const auto [first, pages] = charged[random() % charged.size()];
      charged.erase(std::ranges::find(charged, std::pair(first, pages)));
      locked.uncharge_range(first, pages);
      for (auto page = first; page < first + pages; ++page) --counts[page];
    }
    const auto held = std::ranges::count_if(counts, [](unsigned count) { return count != 0; });
    ASSERT_EQ(locked.pages(), static_cast<std::uint64_t>(held));
  }
}

TEST(LockedMemory, ThreadsTogetherStayWithinTheLimit) {
  LockedMemory locked;
  std::atomic<unsigned> granted{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 1000; ++k) granted += locked.charge(1, 1500) ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(granted, 1500u);
  EXPECT_EQ(locked.pages(), 1500u);
}

}  // namespace
}  // namespace uvfio::memory
