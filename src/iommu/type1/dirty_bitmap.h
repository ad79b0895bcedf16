// Which pages of one mapping were written since the last report (vfio_dma.bitmap).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "uvfio/error.h"

namespace uvfio::iommu::type1 {

// The bitmap in the client's memory that a report goes to. Offsets in 64-bit words.
class UserBitmap {
 public:
  virtual ~UserBitmap() = default;
  [[nodiscard]] virtual Result<std::uint64_t> read(std::uint64_t word) = 0;
  [[nodiscard]] virtual Status write(std::uint64_t word, std::span<const std::uint64_t> words) = 0;
};

// One bit for each of the container's smallest pages. Bits may be set by any thread at any time;
// the rest is the mapping owner's business.
class DirtyBitmap {
 public:
  // DIRTY_BITMAP_PAGES_MAX: what a report of one call can hold.
  static constexpr std::uint64_t kMaxPages = 0x7fffffff;
  // DIRTY_BITMAP_SIZE_MAX in bytes.
  static constexpr std::uint64_t kMaxBytes = 0x10000000;
  // DIRTY_BITMAP_BYTES: whole 64-bit words.
  [[nodiscard]] static constexpr std::uint64_t bytes(std::uint64_t pages) {
    return (pages + 63) / 64 * 8;
  }

  // For `pages` of 4 KiB; a bit stands for 2^shift of them.
  explicit DirtyBitmap(std::uint64_t pages, unsigned shift = 0);

  // In pages of 4 KiB; `count` is not 0.
  void set(std::uint64_t first, std::uint64_t count);
  void set_all();
  // Copies all bits to bit `at` and on of the user's bitmap; the rest of the last word becomes 0.
  // Where `at` is inside a word, what the user has in that word stays set. EFAULT.
  // update_user_bitmap.
  // With Take::yes the bits are cleared in the same step, so that none set meanwhile is lost.
  enum class Take { no, yes };
  [[nodiscard]] Status report(UserBitmap& user, std::uint64_t at, Take take);

 private:
  [[nodiscard]] std::uint64_t words() const { return (bits_ + 63) / 64; }
  void set_bits(std::uint64_t first, std::uint64_t count);

  unsigned shift_;
  std::uint64_t bits_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace uvfio::iommu::type1
