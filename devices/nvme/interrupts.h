// When the host is interrupted (section 7.5): once for several completions, by pin, MSI or MSI-X.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "devices/nvme/features.h"
#include "devices/nvme/queues.h"
#include "uvfio/pci.h"

namespace uvfio::nvme {

// One thread's.
class Interrupts {
 public:
  using Clock = std::chrono::steady_clock;

  Interrupts(const Features& features, unsigned vectors) : features_(features), due_(vectors) {}

  void posted(const CompletionQueue& queue, unsigned entries);
  // Sends what is due, and sets the pin. The time to come again, if something waits for more
  // completions.
  std::optional<Clock::time_point> send(pci::Port& port, Queues& queues, std::uint32_t mask);
  void reset();

 private:
  struct Due {
    unsigned entries = 0;
    Clock::time_point since;
  };
  const Features& features_;
  std::vector<Due> due_;  // by vector
  bool any_ = false;
  bool pin_ = false;
};

}  // namespace uvfio::nvme
