// Features (section 5.21): what can be set and read, and what the rest of the controller asks of
// it.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <vector>

#include "devices/nvme/protocol.h"

namespace uvfio::nvme {

// Figure 271
enum class FeatureId : std::uint8_t {
  arbitration = 0x01,
  power_management = 0x02,
  temperature_threshold = 0x04,
  error_recovery = 0x05,
  volatile_write_cache = 0x06,
  number_of_queues = 0x07,
  interrupt_coalescing = 0x08,
  interrupt_vector_configuration = 0x09,
  write_atomicity_normal = 0x0a,
  async_event_configuration = 0x0b,
};

// Asynchronous events that can be switched on (figure 291).
inline constexpr std::uint32_t kEventOverTemperature = 1U
                                                       << 1;  // bit of the critical warnings, too
inline constexpr std::uint32_t kEventNamespaceAttributes = 1U << 8;

// Values, lost at a reset. One thread's.
class Features {
 public:
  explicit Features(unsigned io_queues);

  enum class Select : std::uint8_t { current = 0, initial = 1, saved = 2, capabilities = 3 };
  // `cdw11` chooses where a feature has several values. The result is double word 0.
  [[nodiscard]] std::expected<std::uint32_t, CommandStatus> get(std::uint8_t id, Select select,
                                                                std::uint32_t cdw11,
                                                                std::uint32_t nsid) const;
  // `queues_exist`: there are I/O queues, whose number can no longer be set.
  [[nodiscard]] std::expected<std::uint32_t, CommandStatus> set(const Command& command,
                                                                bool queues_exist);
  void reset();

  [[nodiscard]] bool write_cache() const { return write_cache_ != 0; }
  // Commands taken from a queue before it is another's turn.
  [[nodiscard]] unsigned arbitration_burst() const;
  [[nodiscard]] bool event_enabled(std::uint32_t bit) const { return (events_ & bit) != 0; }
  [[nodiscard]] bool over_temperature() const;
  // Interrupts of `vector` wait for `entries` completions or 100 us times `time`; 0: they do not
  // wait.
  struct Coalescing {
    unsigned entries = 0;
    unsigned time = 0;
  };
  [[nodiscard]] Coalescing coalescing(unsigned vector) const;

 private:
  struct Known;
  static const std::array<Known, 10> kKnown;
  static const Known* find(std::uint8_t id);

  const unsigned io_queues_;
  std::uint32_t arbitration_ = 0;
  std::uint32_t over_threshold_ = 0;
  std::uint32_t under_threshold_ = 0;
  std::uint32_t error_recovery_ = 0;
  std::uint32_t write_cache_ = 0;
  std::uint32_t coalescing_ = 0;
  std::vector<bool> not_coalesced_;  // by vector
  std::uint32_t write_atomicity_ = 0;
  std::uint32_t events_ = 0;
};

}  // namespace uvfio::nvme
