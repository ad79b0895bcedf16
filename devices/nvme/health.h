// What a controller remembers of its life: counters of the SMART page, and errors (section 5.14.1).
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "devices/nvme/protocol.h"

namespace uvfio::nvme {

inline constexpr std::uint16_t kTemperature = 300;         // kelvin; there is no sensor
inline constexpr std::uint16_t kWarningTemperature = 343;  // WCTEMP, the default threshold
inline constexpr std::uint16_t kCriticalTemperature = 353;
inline constexpr unsigned kErrorLogEntries = 64;

// Survives resets. One thread's.
struct Health {
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t reads = 0;   // commands, with Compare and Verify
  std::uint64_t writes = 0;  // commands
  std::uint64_t media_errors = 0;
  std::chrono::steady_clock::duration busy{};
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

// Figure 194: an entry of the error page.
struct ErrorEntry {
  std::uint64_t count;
  std::uint16_t sq_id;
  std::uint16_t cid;
  std::uint16_t status;  // with the phase tag's place, as in a completion
  std::uint16_t location;
  std::uint64_t lba;
  std::uint32_t nsid;
  std::uint8_t vendor_page;
  std::uint8_t transport;
  std::uint8_t reserved[2];
  std::uint64_t specific;
  std::uint16_t transport_specific;
  std::uint8_t reserved_end[22];
};
static_assert(sizeof(ErrorEntry) == 64);

class ErrorLog {
 public:
  void add(ErrorEntry entry) {
    entry.count = ++count_;
    entries_.push_front(entry);
    if (entries_.size() > kErrorLogEntries) entries_.pop_back();
  }
  [[nodiscard]] const std::deque<ErrorEntry>& entries() const { return entries_; }  // newest first
  [[nodiscard]] std::uint64_t count() const { return count_; }

 private:
  std::deque<ErrorEntry> entries_;
  std::uint64_t count_ = 0;
};

}  // namespace uvfio::nvme
