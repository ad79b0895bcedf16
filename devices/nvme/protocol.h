// Commands and their completions (NVM Express 1.4, chapters 4 to 6).
#pragma once

#include <cstdint>

#include "devices/nvme/bits.h"

namespace uvfio::nvme {

// Figure 104: a submission queue entry.
struct Command {
  std::uint8_t opcode;
  std::uint8_t flags;  // fused operation, PRP or SGL
  std::uint16_t cid;
  std::uint32_t nsid;
  std::uint64_t reserved;
  std::uint64_t mptr;
  std::uint64_t dptr[2];
  std::uint32_t cdw10;
  std::uint32_t cdw11;
  std::uint32_t cdw12;
  std::uint32_t cdw13;
  std::uint32_t cdw14;
  std::uint32_t cdw15;
};
static_assert(sizeof(Command) == 64);

using Fuse = Bits<1, 0>;
using Psdt = Bits<7, 6>;  // 0: PRP, 1 and 2: SGL

// Figure 122: a completion queue entry.
struct Completion {
  std::uint32_t result;
  std::uint32_t reserved;
  std::uint16_t sq_head;
  std::uint16_t sq_id;
  std::uint16_t cid;
  std::uint16_t status;  // bit 0 is the phase tag
};
static_assert(sizeof(Completion) == 16);

inline constexpr unsigned kSqEntryShift = 6;
inline constexpr unsigned kCqEntryShift = 4;
inline constexpr std::uint32_t kAllNamespaces = 0xffffffff;

// Figure 139
enum class AdminOpcode : std::uint8_t {
  delete_sq = 0x00,
  create_sq = 0x01,
  get_log_page = 0x02,
  delete_cq = 0x04,
  create_cq = 0x05,
  identify = 0x06,
  abort = 0x08,
  set_features = 0x09,
  get_features = 0x0a,
  async_event_request = 0x0c,
  doorbell_buffer_config = 0x7c,
  format_nvm = 0x80,
};

// Figure 346
enum class IoOpcode : std::uint8_t {
  flush = 0x00,
  write = 0x01,
  read = 0x02,
  compare = 0x05,
  write_zeroes = 0x08,
  dataset_management = 0x09,
  verify = 0x0c,
};

// Status code type and status code (figures 127 to 131), the type in the upper byte.
enum class CommandStatus : std::uint16_t {
  success = 0x000,
  invalid_opcode = 0x001,
  invalid_field = 0x002,
  data_transfer_error = 0x004,
  internal_error = 0x006,
  abort_requested = 0x007,
  invalid_namespace = 0x00b,
  command_sequence_error = 0x00c,
  invalid_sgl_segment = 0x00d,
  invalid_sgl_count = 0x00e,
  data_sgl_length_invalid = 0x00f,
  sgl_type_invalid = 0x011,
  invalid_prp_offset = 0x013,
  lba_out_of_range = 0x080,
  capacity_exceeded = 0x081,
  format_in_progress = 0x084,
  completion_queue_invalid = 0x100,
  invalid_queue_id = 0x101,
  invalid_queue_size = 0x102,
  abort_limit_exceeded = 0x103,
  event_request_limit_exceeded = 0x105,
  invalid_interrupt_vector = 0x108,
  invalid_log_page = 0x109,
  invalid_format = 0x10a,
  invalid_queue_deletion = 0x10c,
  feature_not_saveable = 0x10d,
  feature_not_changeable = 0x10e,
  write_fault = 0x280,
  unrecovered_read_error = 0x281,
  compare_failure = 0x285,
};

// The status field without the phase tag (figure 124): 15 bits, as bits 31:17 of a completion.
[[nodiscard]] constexpr std::uint16_t status_field(CommandStatus status, bool do_not_retry) {
  const auto code = static_cast<std::uint16_t>(status);
  return static_cast<std::uint16_t>(Bits<10, 0>::put(code) | Bits<14>::put(do_not_retry ? 1 : 0));
}

// Figure 115: an SGL descriptor.
struct SglDescriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint8_t reserved[3];
  std::uint8_t id;  // type and subtype
};
static_assert(sizeof(SglDescriptor) == 16);
using SglType = Bits<7, 4>;
using SglSubtype = Bits<3, 0>;
enum class SglKind : std::uint8_t { data_block = 0, bit_bucket = 1, segment = 2, last_segment = 3 };

// Figure 364: a range of Dataset Management.
struct DatasetRange {
  std::uint32_t attributes;
  std::uint32_t blocks;
  std::uint64_t first;
};
static_assert(sizeof(DatasetRange) == 16);

}  // namespace uvfio::nvme
