#include "devices/ioat/pace.h"

#include <gtest/gtest.h>

namespace uvfio::ioat {
namespace {

using namespace std::chrono_literals;

// How often an engine that nobody touches is looked at between two times after the last sign of
// life.
int looks(std::chrono::nanoseconds from, std::chrono::nanoseconds to, bool stopped) {
  const Pace::Clock::time_point start{};
  Pace pace;
  pace.alive(start);
  int count = 0;
  for (Pace::Clock::duration at = from; at < to; ++count) {
    const auto pause = pace.pause(start + at, stopped);
    at += std::max<Pace::Clock::duration>(pause, 1us);
  }
  return count;
}

TEST(PaceTest, SpinsWhileSomethingHappens) {
  Pace pace;
  const Pace::Clock::time_point start{};
  pace.alive(start);
  EXPECT_EQ(pace.pause(start + 100us, false), 0us);
  EXPECT_EQ(pace.pause(start + 100ms, true), 0us);
}

TEST(PaceTest, SleepsAFractionOfTheSilence) {
  Pace pace;
  const Pace::Clock::time_point start{};
  pace.alive(start);
  EXPECT_EQ(pace.pause(start + 800us, false), 100us);
  EXPECT_EQ(pace.pause(start + 1h, false), 2ms);
}

TEST(PaceTest, IdleCostsNextToNothing) {
  EXPECT_LE(looks(1s, 2s, false), 500);
  EXPECT_LE(looks(1s, 2s, true), 500);
  // From the end of the spin to the longest sleep.
  EXPECT_LE(looks(200us, 16ms, false), 60);
}

}  // namespace
}  // namespace uvfio::ioat
