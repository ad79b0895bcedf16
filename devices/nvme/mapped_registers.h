// BAR 0 as memory that programs map and use without a system call: nobody tells when they write
// it, so the controller looks.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "devices/nvme/doorbells.h"
#include "devices/nvme/registers.h"

namespace uvfio::nvme {

// Registers read as what was shown last, doorbells as what was written. A write shows by its value:
// one of the value that is there already is none. So INTMS and INTMC, whose writes act, read as 0.
// Thread-safe; does nothing while there is no memory.
class MappedRegisters {
 public:
  // Once. `memory` is the BAR, or empty; `doorbells` as many as there are.
  void connect(std::span<std::byte> memory, unsigned doorbells);
  [[nodiscard]] bool mapped() const { return !memory_.empty(); }

  // Everything as `registers` say, and doorbells 0, whatever has been written.
  void reset(const RegisterFile& registers);
  // Of a new queue, which begins with 0.
  void clear_doorbell(unsigned index);
  void clear_doorbells();

  // What has changed in `registers` since the last time, but for what has been written and not been
  // looked at.
  void show(const RegisterFile& registers);

  // Calls write(offset, value) for each word that has been written. CC comes after the other
  // registers, as a driver writes it last, and doorbells come after all. True: there was any.
  template <typename Write>
  bool look(Write&& write) {
    if (!mapped()) return false;
    const std::lock_guard lock(mutex_);
    bool any = false;
    const auto take = [&](std::uint64_t offset, std::uint32_t& seen, std::uint32_t now) {
      if (now == seen) return;
      seen = now;
      any = true;
      write(offset, now);
    };
    // With what is read here all that was written before can be seen.
    const std::uint32_t configuration = word(kConfiguration * 4).load(std::memory_order_acquire);
    for (unsigned i = 0; i < registers_.size(); ++i) {
      if (i != kConfiguration)
        take(i * 4, registers_[i], word(i * 4).load(std::memory_order_acquire));
    }
    take(kConfiguration * 4, registers_[kConfiguration], configuration);
    for (unsigned i = 0; i < count_; ++i) {
      const std::uint64_t offset = kDoorbells + i * 4;
      take(offset, doorbells_[i], word(offset).load(std::memory_order_acquire));
    }
    return any;
  }

  // Calls `change` while nothing here touches the memory.
  void hold_still(const std::function<void()>& change) {
    const std::lock_guard lock(mutex_);
    change();
  }

 private:
  static constexpr unsigned kConfiguration = offset_of(RegisterId::cc) / 4;

  [[nodiscard]] std::atomic_ref<std::uint32_t> word(std::uint64_t offset) const {
    return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(&memory_[offset]));
  }

  std::mutex mutex_;
  std::span<std::byte> memory_;
  unsigned count_ = 0;
  // What each word was when last looked at or shown.
  std::array<std::uint32_t, kRegistersEnd / 4> registers_{};
  std::array<std::uint32_t, Doorbells::kCount> doorbells_{};
};

}  // namespace uvfio::nvme
