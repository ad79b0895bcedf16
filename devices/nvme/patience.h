// Whether it pays to wait awake for the host's next command.
#pragma once

#include <algorithm>

namespace uvfio::nvme {

// Yes, as long as it mostly did of late; else it is tried now and then.
class Patience {
 public:
  static constexpr int kMost = 8;
  static constexpr int kTryEvery = 8;

  // To be followed by either of the others if true.
  [[nodiscard]] bool worth() {
    if (credit_ > 0) return true;
    if (++refused_ < kTryEvery) return false;
    refused_ = 0;
    return true;
  }
  void rewarded() { credit_ = std::min(credit_ + 2, kMost); }
  void in_vain() { credit_ = std::max(credit_ - 1, 0); }

 private:
  int credit_ = 0;
  int refused_ = 0;
};

}  // namespace uvfio::nvme
