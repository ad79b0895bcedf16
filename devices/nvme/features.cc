#include "devices/nvme/features.h"

#include <algorithm>

#include "devices/nvme/bits.h"
#include "devices/nvme/health.h"

namespace uvfio::nvme {
namespace {

using Burst = Bits<2, 0>;            // 5.21.1.1; 7: no limit
using PowerState = Bits<4, 0>;       // 5.21.1.2
using Threshold = Bits<15, 0>;       // 5.21.1.4
using Sensor = Bits<19, 16>;         // 0: composite, 15: all
using ThresholdType = Bits<21, 20>;  // 0: over, 1: under
using CoalesceEntries = Bits<7, 0>;  // 5.21.1.8, 0's based
using CoalesceTime = Bits<15, 8>;
using Vector = Bits<15, 0>;  // 5.21.1.9
using NotCoalesced = Bits<16>;

constexpr std::uint32_t kNoBurstLimit = 7;
constexpr std::uint32_t kSupportedEvents = 0xff | kEventNamespaceAttributes;

// Figure 278, what a feature can do.
constexpr std::uint32_t kPerNamespace = 1U << 1;
constexpr std::uint32_t kChangeable = 1U << 2;

constexpr auto kInvalid = [] { return std::unexpected(CommandStatus::invalid_field); };

}  // namespace

struct Features::Known {
  FeatureId id;
  std::uint32_t capabilities;
  std::uint32_t initial;
};

const std::array<Features::Known, 10> Features::kKnown{{
    {FeatureId::arbitration, kChangeable, kNoBurstLimit},
    {FeatureId::power_management, kChangeable, 0},
    {FeatureId::temperature_threshold, kChangeable, kWarningTemperature},
    {FeatureId::error_recovery, kChangeable | kPerNamespace, 0},
    {FeatureId::volatile_write_cache, kChangeable, 1},
    {FeatureId::number_of_queues, kChangeable, 0},
    {FeatureId::interrupt_coalescing, kChangeable, 0},
    {FeatureId::interrupt_vector_configuration, kChangeable, 0},
    {FeatureId::write_atomicity_normal, kChangeable, 0},
    {FeatureId::async_event_configuration, kChangeable, 0},
}};

const Features::Known* Features::find(std::uint8_t id) {
  const auto* const known = std::ranges::find_if(
      kKnown, [&](const Known& each) { return static_cast<std::uint8_t>(each.id) == id; });
  return known == kKnown.end() ? nullptr : known;
}

Features::Features(unsigned io_queues) : io_queues_(io_queues) { reset(); }

void Features::reset() {
  arbitration_ = kNoBurstLimit;
  over_threshold_ = kWarningTemperature;
  under_threshold_ = 0;
  error_recovery_ = 0;
  write_cache_ = 1;
  coalescing_ = 0;
  not_coalesced_.assign(io_queues_ + 1, false);
  write_atomicity_ = 0;
  events_ = 0;
}

std::expected<std::uint32_t, CommandStatus> Features::get(std::uint8_t id, Select select,
                                                          std::uint32_t cdw11,
                                                          std::uint32_t nsid) const {
  const Known* const known = find(id);
  if (known == nullptr) return kInvalid();
  static_cast<void>(nsid);
  const bool current = select == Select::current;
  if (select == Select::capabilities) return known->capabilities;
  if (select > Select::capabilities) return kInvalid();
  switch (known->id) {
    case FeatureId::number_of_queues:
      return (io_queues_ - 1) | (io_queues_ - 1) << 16;
    case FeatureId::temperature_threshold:
      if (Sensor::get(cdw11) != 0 || ThresholdType::get(cdw11) > 1) return kInvalid();
      if (ThresholdType::get(cdw11) == 1) return current ? under_threshold_ : 0;
      return current ? over_threshold_ : known->initial;
    case FeatureId::interrupt_vector_configuration: {
      const std::uint32_t vector = Vector::get(cdw11);
      if (vector >= not_coalesced_.size()) return kInvalid();
      return vector | (current && not_coalesced_[vector] ? NotCoalesced::kMask : 0);
    }
    default:
      break;
  }
  if (!current) return known->initial;
  switch (known->id) {
    case FeatureId::arbitration:
      return arbitration_;
    case FeatureId::error_recovery:
      return error_recovery_;
    case FeatureId::volatile_write_cache:
      return write_cache_;
    case FeatureId::interrupt_coalescing:
      return coalescing_;
    case FeatureId::write_atomicity_normal:
      return write_atomicity_;
    case FeatureId::async_event_configuration:
      return events_;
    default:
      return 0;  // power management: there is one state
  }
}

std::expected<std::uint32_t, CommandStatus> Features::set(const Command& command,
                                                          bool queues_exist) {
  const Known* const known = find(static_cast<std::uint8_t>(command.cdw10));
  if (known == nullptr) return kInvalid();
  if (Bits<31>::get(command.cdw10) != 0)
    return std::unexpected(CommandStatus::feature_not_saveable);
  const std::uint32_t value = command.cdw11;
  switch (known->id) {
    case FeatureId::arbitration:
      arbitration_ = value;
      return 0;
    case FeatureId::power_management:
      if (PowerState::get(value) != 0) return kInvalid();
      return 0;
    case FeatureId::temperature_threshold: {
      const std::uint32_t sensor = Sensor::get(value);
      if ((sensor != 0 && sensor != 15) || ThresholdType::get(value) > 1) return kInvalid();
      (ThresholdType::get(value) == 0 ? over_threshold_ : under_threshold_) = Threshold::get(value);
      return 0;
    }
    case FeatureId::error_recovery:
      // Errors of deallocated blocks, bit 16, cannot be had.
      if (Bits<16>::get(value) != 0) return kInvalid();
      error_recovery_ = Bits<15, 0>::get(value);
      return 0;
    case FeatureId::volatile_write_cache:
      write_cache_ = value & 1;
      return 0;
    case FeatureId::number_of_queues:
      if (queues_exist) return std::unexpected(CommandStatus::command_sequence_error);
      if (Bits<15, 0>::get(value) == 0xffff || Bits<31, 16>::get(value) == 0xffff)
        return kInvalid();
      return (io_queues_ - 1) | (io_queues_ - 1) << 16;
    case FeatureId::interrupt_coalescing:
      coalescing_ = Bits<15, 0>::get(value);
      return 0;
    case FeatureId::interrupt_vector_configuration:
      if (Vector::get(value) >= not_coalesced_.size()) return kInvalid();
      not_coalesced_[Vector::get(value)] = NotCoalesced::get(value) != 0;
      return 0;
    case FeatureId::write_atomicity_normal:
      write_atomicity_ = value & 1;
      return 0;
    case FeatureId::async_event_configuration:
      events_ = value & kSupportedEvents;
      return 0;
  }
  return kInvalid();
}

unsigned Features::arbitration_burst() const {
  const std::uint32_t burst = Burst::get(arbitration_);
  return burst == kNoBurstLimit ? ~0U : 1U << burst;
}

bool Features::over_temperature() const {
  return kTemperature >= over_threshold_ || kTemperature <= under_threshold_;
}

Features::Coalescing Features::coalescing(unsigned vector) const {
  // Admin completions do not wait.
  if (vector == 0 || vector >= not_coalesced_.size() || not_coalesced_[vector]) return {};
  const unsigned time = CoalesceTime::get(coalescing_);
  if (time == 0) return {};
  return {.entries = CoalesceEntries::get(coalescing_) + 1, .time = time};
}

}  // namespace uvfio::nvme
