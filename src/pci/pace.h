// How often a model looks at registers that clients write through a mapping, which tells nobody.
#pragma once

#include <algorithm>
#include <chrono>

namespace uvfio::pci {

// Spins for a while after each sign of life, then sleeps in proportion to how long nothing has
// happened: whoever comes back after a pause waits at most an eighth of that pause longer, and an
// idle device costs next to nothing.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kSpin{200};
  static constexpr std::chrono::milliseconds kLongest{2};

  void alive(Clock::time_point now) { last_ = now; }

  // How long to sleep; 0: look again at once. `spin` is the while.
  [[nodiscard]] Clock::duration pause(Clock::time_point now, Clock::duration spin = kSpin) const {
    const Clock::duration quiet = now - last_;
    if (quiet < spin) return Clock::duration::zero();
    return std::min<Clock::duration>(quiet / 8, kLongest);
  }

 private:
  Clock::time_point last_;
};

}  // namespace uvfio::pci
