// The controller's registers at the start of BAR 0 (NVM Express 1.4, section 3.1): where they are,
// their fields, and the file that keeps their values.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "devices/nvme/bits.h"

namespace uvfio::nvme {

// 3.1.1 Controller Capabilities
namespace cap {
using Mqes = Bits<15, 0>;     // maximum queue entries, 0's based
using Cqr = Bits<16>;         // queues must be contiguous
using To = Bits<31, 24>;      // time to become ready, in 500 ms
using Nssrs = Bits<36>;       // NSSR is there
using Css = Bits<44, 37>;     // command sets; bit 0: NVM
using MpsMax = Bits<55, 52>;  // memory page size, 2 ^ (12 + n)
}  // namespace cap

// 3.1.5 Controller Configuration
namespace cc {
using En = Bits<0>;
using Css = Bits<6, 4>;
using Mps = Bits<10, 7>;
using Ams = Bits<13, 11>;
using Shn = Bits<15, 14>;
using IoSqes = Bits<19, 16>;
using IoCqes = Bits<23, 20>;
}  // namespace cc

// 3.1.6 Controller Status
namespace csts {
using Rdy = Bits<0>;
using Cfs = Bits<1>;
using Shst = Bits<3, 2>;
using Nssro = Bits<4>;
inline constexpr std::uint32_t kShutdownComplete = 2;
}  // namespace csts

// 3.1.8 Admin Queue Attributes
namespace aqa {
using Asqs = Bits<11, 0>;   // 0's based
using Acqs = Bits<27, 16>;  // 0's based
}  // namespace aqa

inline constexpr std::uint32_t kSubsystemResetCode = 0x4E564D65;  // 3.1.7: "NVMe"
inline constexpr std::uint32_t kVersion = 0x00010400;             // 3.1.2: 1.4
inline constexpr unsigned kMinPageShift = 12;                     // CAP.MPSMIN is 0
inline constexpr unsigned kMaxPageShift = 16;
inline constexpr std::uint16_t kMaxQueueEntries = 4096;
inline constexpr std::uint64_t kDoorbells = 0x1000;  // 3.1.24; the stride is four bytes

enum class RegisterId : std::uint8_t {
  cap,
  vs,
  intms,
  intmc,
  cc,
  reserved,
  csts,
  nssr,
  aqa,
  asq,
  acq,
  count,
};

struct RegisterInfo {
  std::string_view name;
  std::uint8_t size;       // bytes
  std::uint64_t writable;  // bits that a plain write changes
};

inline constexpr std::array<RegisterInfo, static_cast<std::size_t>(RegisterId::count)> kRegisters{{
    {"CAP", 8, 0},
    {"VS", 4, 0},
    {"INTMS", 4, 0},  // writes set bits of the mask
    {"INTMC", 4, 0},  // writes clear them
    {"CC", 4,
     cc::En::kMask | cc::Css::kMask | cc::Mps::kMask | cc::Ams::kMask | cc::Shn::kMask |
         cc::IoSqes::kMask | cc::IoCqes::kMask},
    {"reserved", 4, 0},
    {"CSTS", 4, 0},  // NSSRO is cleared by writing 1
    {"NSSR", 4, 0},  // acts, keeps nothing
    {"AQA", 4, aqa::Asqs::kMask | aqa::Acqs::kMask},
    {"ASQ", 8, ~std::uint64_t{0xfff}},
    {"ACQ", 8, ~std::uint64_t{0xfff}},
}};

[[nodiscard]] constexpr std::uint64_t offset_of(RegisterId id) {
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(id); ++i) offset += kRegisters[i].size;
  return offset;
}
inline constexpr std::uint64_t kRegistersEnd = offset_of(RegisterId::count);
static_assert(offset_of(RegisterId::intmc) == 0x10);
static_assert(offset_of(RegisterId::csts) == 0x1C);
static_assert(offset_of(RegisterId::asq) == 0x28);
static_assert(kRegistersEnd == 0x38);

// The values. Thread-safe: hosts access registers from any thread, beside the controller's own.
class RegisterFile {
 public:
  // What a write asks the controller to do.
  enum class Effect : std::uint8_t { none, interrupt_mask, configuration, subsystem_reset };

  RegisterFile();

  // A double word of the file; what is not there reads as 0 and takes no writes. `offset` is a
  // multiple of 4.
  [[nodiscard]] std::uint32_t read(std::uint64_t offset) const;
  Effect write(std::uint64_t offset, std::uint32_t value);

  [[nodiscard]] std::uint64_t get(RegisterId id) const;
  [[nodiscard]] std::uint32_t interrupt_mask() const {
    return static_cast<std::uint32_t>(get(RegisterId::intms));
  }
  void set_status(std::uint32_t bits);
  void clear_status(std::uint32_t bits);

  // Controller reset (7.3.2): AQA, ASQ and ACQ stay, and CC, which the host has just written.
  void controller_reset();
  // Everything as after power-on.
  void power_on();

 private:
  [[nodiscard]] std::atomic<std::uint32_t>& word(RegisterId id, unsigned half = 0) {
    return words_[offset_of(id) / 4 + half];
  }
  std::array<std::atomic<std::uint32_t>, kRegistersEnd / 4> words_{};
};

}  // namespace uvfio::nvme
