// The doorbell registers (section 3.1.24 and 3.1.25): the last value written to each, and which
// have been written since the controller looked.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace uvfio::nvme {

inline constexpr unsigned kMaxIoQueues = 127;

// Thread-safe; one thread takes what the others ring.
class Doorbells {
 public:
  static constexpr unsigned kCount = 2 * (kMaxIoQueues + 1);

  // Doorbell `index`: submission tail of queue index / 2 if even, completion head if odd.
  void ring(unsigned index, std::uint32_t value) {
    values_[index].store(value, std::memory_order_relaxed);
    rung_[index / 64].fetch_or(std::uint64_t{1} << index % 64);
  }
  [[nodiscard]] bool any() const {
    for (const auto& word : rung_) {
      if (word.load() != 0) return true;
    }
    return false;
  }
  // Calls take(index, value) for each that was rung. In ascending order: who has seen the admin
  // queue's doorbell has then seen all that were rung before it.
  template <typename Take>
  void collect(Take&& take) {
    for (unsigned word = 0; word < rung_.size(); ++word) {
      if (rung_[word].load() == 0) continue;
      for (std::uint64_t bits = rung_[word].exchange(0); bits != 0; bits &= bits - 1) {
        const unsigned index = word * 64 + static_cast<unsigned>(std::countr_zero(bits));
        take(index, values_[index].load(std::memory_order_relaxed));
      }
    }
  }
  void clear() {
    for (auto& word : rung_) word = 0;
  }

 private:
  std::array<std::atomic<std::uint32_t>, kCount> values_{};
  std::array<std::atomic<std::uint64_t>, kCount / 64> rung_{};
};

}  // namespace uvfio::nvme
