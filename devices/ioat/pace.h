// How often to look at memory that tells nobody when it is written.
#pragma once

#include <algorithm>
#include <chrono>

namespace uvfio::ioat {

// Spins for a while after each sign of life, then sleeps in proportion to how long nothing has
// happened: whoever comes back after a pause waits at most an eighth of that pause longer, and an
// idle engine costs next to nothing.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kSpin{200};
  // A stopped channel is being set up: Linux gives it 20 us from its first doorbell to its first
  // sign of life, so look without a pause until the set-up should be over.
  static constexpr std::chrono::milliseconds kSetupSpin{250};
  static constexpr std::chrono::milliseconds kLongest{2};

  void alive(Clock::time_point now) { last_ = now; }

  // How long to sleep; 0: look again at once.
  [[nodiscard]] Clock::duration pause(Clock::time_point now, bool stopped) const {
    const Clock::duration quiet = now - last_;
    if (quiet < (stopped ? Clock::duration(kSetupSpin) : Clock::duration(kSpin)))
      return Clock::duration::zero();
    return std::min<Clock::duration>(quiet / 8, kLongest);
  }

 private:
  Clock::time_point last_;
};

}  // namespace uvfio::ioat
