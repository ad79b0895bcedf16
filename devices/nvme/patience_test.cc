#include "devices/nvme/patience.h"

#include <gtest/gtest.h>

namespace uvfio::nvme {
namespace {

// How many of `times` pauses are waited through awake by a host that never comes back in time.
int tries_in_vain(Patience& patience, int times) {
  int tries = 0;
  for (int i = 0; i < times; ++i) {
    if (!patience.worth()) continue;
    ++tries;
    patience.in_vain();
  }
  return tries;
}

TEST(Patience, IsTriedNowAndThen) {
  Patience patience;
  EXPECT_EQ(tries_in_vain(patience, 10 * Patience::kTryEvery), 10);
}

TEST(Patience, LastsWhileItPays) {
  Patience patience;
  while (!patience.worth()) {
  }
  patience.rewarded();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(patience.worth());
    i % 2 == 0 ? patience.rewarded() : patience.in_vain();
  }
}

TEST(Patience, EndsSoonAfterItDoesNotPay) {
  Patience patience;
  for (int i = 0; i < 100; ++i) patience.rewarded();
  EXPECT_EQ(tries_in_vain(patience, Patience::kMost), Patience::kMost);
  EXPECT_FALSE(patience.worth());
}

}  // namespace
}  // namespace uvfio::nvme
