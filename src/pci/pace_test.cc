#include "pci/pace.h"

#include <gtest/gtest.h>

namespace uvfio::pci {
namespace {

using namespace std::chrono_literals;

// How often a device that nobody touches is looked at between two times after the last sign of
// life.
int looks(std::chrono::nanoseconds from, std::chrono::nanoseconds to,
          std::chrono::nanoseconds spin = Pace::kSpin) {
  const Pace::Clock::time_point start{};
  Pace pace;
  pace.alive(start);
  int count = 0;
  for (Pace::Clock::duration at = from; at < to; ++count) {
    const auto pause = pace.pause(start + at, spin);
    at += std::max<Pace::Clock::duration>(pause, 1us);
  }
  return count;
}

TEST(PaceTest, SpinsWhileSomethingHappens) {
  Pace pace;
  const Pace::Clock::time_point start{};
  pace.alive(start);
  EXPECT_EQ(pace.pause(start + 100us), 0us);
  EXPECT_EQ(pace.pause(start + 100ms, 250ms), 0us);
}

TEST(PaceTest, SleepsAFractionOfTheSilence) {
  Pace pace;
  const Pace::Clock::time_point start{};
  pace.alive(start);
  EXPECT_EQ(pace.pause(start + 800us), 100us);
  EXPECT_EQ(pace.pause(start + 1h), 2ms);
}

TEST(PaceTest, IdleCostsNextToNothing) {
  EXPECT_LE(looks(1s, 2s), 500);
  EXPECT_LE(looks(1s, 2s, 250ms), 500);
  // From the end of the spin to the longest sleep.
  EXPECT_LE(looks(200us, 16ms), 60);
}

}  // namespace
}  // namespace uvfio::pci
