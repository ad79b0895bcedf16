#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
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
