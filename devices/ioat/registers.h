// Registers and descriptors of Intel's I/OAT DMA engine (QuickData, CB 3.3), in BAR 0. Names are
// those of the Xeon datasheets and of Linux's drivers/dma/ioat.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace uvfio::ioat {

enum class Access : std::uint8_t {
  read_only,
  read_write,
  write_one_to_clear,
  clear_on_read,
};

struct Register {
  std::uint16_t offset = 0;  // in BAR 0
  std::uint8_t width = 0;    // bytes
  Access access = Access::read_only;
  std::uint64_t reset = 0;

  [[nodiscard]] constexpr std::uint16_t end() const {
    return static_cast<std::uint16_t>(offset + width);
  }
};

inline constexpr unsigned kXferCap = 20;  // a descriptor moves at most 2^20 bytes
inline constexpr std::uint64_t kMaxTransfer = std::uint64_t{1} << kXferCap;
inline constexpr std::uint32_t kCapFillBlock = 0x40;

// ---- The device
inline constexpr Register kChanCnt{0x00, 1, Access::read_only, 1};
inline constexpr Register kXferCapRegister{0x01, 1, Access::read_only, kXferCap};
inline constexpr Register kGenCtrl{0x02, 1, Access::read_write, 0};
inline constexpr Register kIntrCtrl{0x03, 1, Access::read_write, 0};
inline constexpr Register kAttnStatus{0x04, 4, Access::clear_on_read, 0};
inline constexpr Register kCbVer{0x08, 1, Access::read_only, 0x33};
inline constexpr Register kPerPortOffset{0x0a, 2, Access::read_only, 0};
inline constexpr Register kIntrDelay{0x0c, 2, Access::read_write, 0};
inline constexpr Register kCsStatus{0x0e, 2, Access::read_only, 0};
inline constexpr Register kDmaCapability{0x10, 4, Access::read_only, kCapFillBlock};
inline constexpr Register kDcaOffset{0x14, 2, Access::read_only, 0};

// ---- Its channel, from 80h on
inline constexpr Register kChanCtrl{0x80, 2, Access::read_write, 0};
inline constexpr Register kDmaComp{0x82, 2, Access::read_only, 0x0002};  // as CB version 2
inline constexpr Register kChanCmd{0x84, 1, Access::read_write, 0};
inline constexpr Register kDmaCount{0x86, 2, Access::read_write, 0};
inline constexpr Register kChanSts{0x88, 8, Access::read_only, 0x3};  // halted
inline constexpr Register kChainAddr{0x90, 8, Access::read_write, 0};
inline constexpr Register kChanCmp{0x98, 8, Access::read_write, 0};
inline constexpr Register kCdar{0xa0, 8, Access::read_only, 0};
inline constexpr Register kChanErr{0xa8, 4, Access::write_one_to_clear, 0};
inline constexpr Register kChanErrMask{0xac, 4, Access::read_write, 0};
inline constexpr Register kDcaCtrl{0xb0, 4, Access::read_write, 0};

inline constexpr std::array kRegisters{
    kChanCnt,       kXferCapRegister, kGenCtrl,     kIntrCtrl,      kAttnStatus, kCbVer,
    kPerPortOffset, kIntrDelay,       kCsStatus,    kDmaCapability, kDcaOffset,  kChanCtrl,
    kDmaComp,       kChanCmd,         kDmaCount,    kChanSts,       kChainAddr,  kChanCmp,
    kCdar,          kChanErr,         kChanErrMask, kDcaCtrl};

// Ascending, naturally aligned, apart from each other.
static_assert([] {
  unsigned end = 0;
  for (const Register& each : kRegisters) {
    if (each.offset < end || each.offset % each.width != 0) return false;
    end = each.end();
  }
  return true;
}());

struct IntrCtrl {
  static constexpr std::uint8_t kMasterEnable = 0x01;
  static constexpr std::uint8_t kStatus = 0x02;
  static constexpr std::uint8_t kInterrupt = 0x04;  // status and master enable
  static constexpr std::uint8_t kMsixVectors = 0x08;
};

struct ChanCtrl {
  static constexpr std::uint16_t kRearm = 0x0001;
  static constexpr std::uint16_t kErrorCompletion = 0x0004;
  static constexpr std::uint16_t kAnyErrorAbort = 0x0008;
  static constexpr std::uint16_t kErrorInterrupt = 0x0010;
};

struct ChanCmd {
  static constexpr std::uint8_t kSuspend = 0x04;
  static constexpr std::uint8_t kAbort = 0x08;
  static constexpr std::uint8_t kResume = 0x10;
  static constexpr std::uint8_t kReset = 0x20;
};

// Low bits of CHANSTS; the rest is the address of the last descriptor that was completed.
enum class ChanState : std::uint8_t { active = 0, idle = 1, suspended = 2, halted = 3, armed = 4 };

struct ChanErr {
  static constexpr std::uint32_t kNextAddress = 0x0004;
  static constexpr std::uint32_t kNextAlignment = 0x0008;
  static constexpr std::uint32_t kChainAddress = 0x0010;
  static constexpr std::uint32_t kReadData = 0x0100;
  static constexpr std::uint32_t kWriteData = 0x0200;
  static constexpr std::uint32_t kControl = 0x0400;
  static constexpr std::uint32_t kLength = 0x0800;
  static constexpr std::uint32_t kCompletionAddress = 0x1000;
};

// In memory, on 64 bytes.
struct Descriptor {
  static constexpr std::uint32_t kInterrupt = 1u << 0;
  static constexpr std::uint32_t kCompletionWrite = 1u << 3;
  static constexpr std::uint32_t kNull = 1u << 5;
  static constexpr std::uint8_t kCopy = 0x00;
  static constexpr std::uint8_t kFill = 0x01;

  std::uint32_t size = 0;
  std::uint32_t control = 0;
  std::uint64_t source = 0;  // fill: 8 bytes of pattern
  std::uint64_t destination = 0;
  std::uint64_t next = 0;
  std::array<std::uint64_t, 4> user{};

  [[nodiscard]] std::uint8_t operation() const { return static_cast<std::uint8_t>(control >> 24); }
};
static_assert(sizeof(Descriptor) == 64);

// The memory that the registers are. The client has it mapped and may write at any time: every
// access is atomic.
class RegisterFile {
 public:
  RegisterFile() = default;
  // At least a page.
  explicit RegisterFile(std::span<std::byte> memory) : memory_(memory) {}

  template <typename T>
  [[nodiscard]] T load(const Register& which) const {
    return at<T>(which).load(std::memory_order_acquire);
  }
  template <typename T>
  void store(const Register& which, T value) {
    at<T>(which).store(value, std::memory_order_release);
  }
  template <typename T>
  void set_bits(const Register& which, T bits) {
    at<T>(which).fetch_or(bits);
  }
  template <typename T>
  void clear_bits(const Register& which, T bits) {
    at<T>(which).fetch_and(static_cast<T>(~bits));
  }
  template <typename T>
  T exchange(const Register& which, T value) {
    return at<T>(which).exchange(value);
  }
  // False: it is not `expected` any more, and stays as it is.
  template <typename T>
  bool replace(const Register& which, T expected, T desired) {
    return at<T>(which).compare_exchange_strong(expected, desired);
  }

  [[nodiscard]] std::uint64_t get(const Register& which) const;
  void set(const Register& which, std::uint64_t value);
  // Every register's reset value; what is between and behind them is zero.
  void power_on();

 private:
  template <typename T>
  [[nodiscard]] std::atomic_ref<T> at(const Register& which) const {
    return std::atomic_ref<T>(*reinterpret_cast<T*>(memory_.data() + which.offset));
  }

  std::span<std::byte> memory_;
};

}  // namespace uvfio::ioat
