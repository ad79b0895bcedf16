#include "devices/nvme/log_pages.h"

#include <array>
#include <cstring>

#include "devices/nvme/identify.h"

namespace uvfio::nvme {
namespace {

// A number of 16 bytes.
struct Wide {
  std::uint64_t low;
  std::uint64_t high;
};

// Figure 196, packed by hand: the composite temperature is not aligned.
struct HealthPage {
  std::uint8_t critical_warning;
  std::uint8_t temperature[2];
  std::uint8_t available_spare;
  std::uint8_t available_spare_threshold;
  std::uint8_t percentage_used;
  std::uint8_t reserved6[26];
  Wide data_units_read;
  Wide data_units_written;
  Wide host_reads;
  Wide host_writes;
  Wide busy_minutes;
  Wide power_cycles;
  Wide power_on_hours;
  Wide unsafe_shutdowns;
  Wide media_errors;
  Wide error_entries;
  std::uint8_t reserved192[320];
};
static_assert(sizeof(HealthPage) == 512);
static_assert(offsetof(HealthPage, data_units_read) == 32);
static_assert(offsetof(HealthPage, error_entries) == 176);

// Figure 199
struct FirmwarePage {
  std::uint8_t active;
  std::uint8_t reserved1[7];
  std::byte revisions[7][8];
  std::uint8_t reserved64[448];
};
static_assert(sizeof(FirmwarePage) == 512);

// Figure 201
struct EffectsPage {
  std::array<std::uint32_t, 256> admin;
  std::array<std::uint32_t, 256> io;
  std::uint8_t reserved[2048];
};
static_assert(sizeof(EffectsPage) == 4096);

constexpr std::uint32_t kSupported = 1U << 0;         // CSUPP
constexpr std::uint32_t kChangesContent = 1U << 1;    // LBCC
constexpr std::uint32_t kChangesNamespace = 1U << 2;  // NCC
constexpr std::uint32_t kExclusive = 2U << 16;        // CSE: one at a time, no other commands

template <typename T>
std::vector<std::byte> bytes_of(const T& data) {
  std::vector<std::byte> bytes(sizeof data);
  std::memcpy(bytes.data(), &data, sizeof data);
  return bytes;
}

Wide units(std::uint64_t bytes) {
  return {(bytes + 511'999) / 512'000, 0};  // thousands of 512 bytes, rounded up
}

}  // namespace

std::vector<std::byte> error_page(const ErrorLog& errors) {
  std::vector<std::byte> page(kErrorLogEntries * sizeof(ErrorEntry));
  std::size_t at = 0;
  for (const ErrorEntry& entry : errors.entries()) {
    std::memcpy(&page[at], &entry, sizeof entry);
    at += sizeof entry;
  }
  return page;
}

std::vector<std::byte> health_page(const Health& health, const ErrorLog& errors,
                                   const Features& features) {
  using std::chrono::duration_cast;
  HealthPage page{};
  if (features.over_temperature())
    page.critical_warning = static_cast<std::uint8_t>(kEventOverTemperature);
  std::memcpy(page.temperature, &kTemperature, sizeof kTemperature);
  page.available_spare = 100;
  page.available_spare_threshold = 10;
  page.data_units_read = units(health.bytes_read);
  page.data_units_written = units(health.bytes_written);
  page.host_reads.low = health.reads;
  page.host_writes.low = health.writes;
  page.busy_minutes.low =
      static_cast<std::uint64_t>(duration_cast<std::chrono::minutes>(health.busy).count());
  page.power_cycles.low = 1;
  page.power_on_hours.low = static_cast<std::uint64_t>(
      duration_cast<std::chrono::hours>(std::chrono::steady_clock::now() - health.started).count());
  page.media_errors.low = health.media_errors;
  page.error_entries.low = errors.count();
  return bytes_of(page);
}

std::vector<std::byte> firmware_page() {
  FirmwarePage page{};
  page.active = 1;
  put_text(page.revisions[0], kFirmwareRevision);
  return bytes_of(page);
}

std::vector<std::byte> changed_namespaces_page(const std::set<std::uint32_t>& ids) {
  std::vector<std::byte> page(4096);
  std::size_t at = 0;
  for (const std::uint32_t id : ids) {
    std::memcpy(&page[at], &id, sizeof id);
    at += sizeof id;
  }
  return page;
}

std::vector<std::byte> effects_page() {
  EffectsPage page{};
  for (const AdminOpcode each :
       {AdminOpcode::delete_sq, AdminOpcode::create_sq, AdminOpcode::get_log_page,
        AdminOpcode::delete_cq, AdminOpcode::create_cq, AdminOpcode::identify, AdminOpcode::abort,
        AdminOpcode::set_features, AdminOpcode::get_features, AdminOpcode::async_event_request,
        AdminOpcode::doorbell_buffer_config})
    page.admin[static_cast<std::uint8_t>(each)] = kSupported;
  page.admin[static_cast<std::uint8_t>(AdminOpcode::format_nvm)] =
      kSupported | kChangesContent | kChangesNamespace | kExclusive;
  for (const IoOpcode each : {IoOpcode::flush, IoOpcode::read, IoOpcode::compare, IoOpcode::verify})
    page.io[static_cast<std::uint8_t>(each)] = kSupported;
  for (const IoOpcode each :
       {IoOpcode::write, IoOpcode::write_zeroes, IoOpcode::dataset_management})
    page.io[static_cast<std::uint8_t>(each)] = kSupported | kChangesContent;
  return bytes_of(page);
}

}  // namespace uvfio::nvme
