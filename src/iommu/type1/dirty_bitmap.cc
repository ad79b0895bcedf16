#include "iommu/type1/dirty_bitmap.h"

#include <algorithm>
#include <array>

namespace uvfio::iommu::type1 {

DirtyBitmap::DirtyBitmap(std::uint64_t pages, unsigned shift)
    : shift_(shift),
      bits_(((pages - 1) >> shift) + 1),
      words_(std::make_unique<std::atomic<std::uint64_t>[]>(words())) {}

void DirtyBitmap::set(std::uint64_t first, std::uint64_t count) {
  const std::uint64_t last = (first + (count - 1)) >> shift_;
  set_bits(first >> shift_, last - (first >> shift_) + 1);
}

void DirtyBitmap::set_all() { set_bits(0, bits_); }

void DirtyBitmap::set_bits(std::uint64_t first, std::uint64_t count) {
  while (count != 0) {
    const std::uint64_t bit = first % 64;
    const std::uint64_t run = std::min<std::uint64_t>(count, 64 - bit);
    const std::uint64_t ones = run == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << run) - 1;
    words_[first / 64].fetch_or(ones << bit, std::memory_order_relaxed);
    first += run;
    count -= run;
  }
}

Status DirtyBitmap::report(UserBitmap& user, std::uint64_t at, Take take) {
  const unsigned shift = at % 64;
  std::uint64_t carry = 0;
  if (shift != 0) {
    const auto before = user.read(at / 64);
    if (!before) return std::unexpected(before.error());
    carry = *before;  // all of it: the kernel's bitmap_or works on whole words
  }
  std::array<std::uint64_t, 512> buffer;
  std::array<std::uint64_t, 512> taken;
  const std::uint64_t total = (bits_ + shift + 63) / 64;
  for (std::uint64_t done = 0; done < total;) {
    const std::uint64_t run = std::min<std::uint64_t>(total - done, buffer.size());
    for (std::uint64_t i = 0; i < run; ++i) {
      taken[i] = 0;
      if (done + i < words()) {
        auto& word = words_[done + i];
        taken[i] = take == Take::yes ? word.exchange(0, std::memory_order_acq_rel)
                                     : word.load(std::memory_order_acquire);
      }
      buffer[i] = carry | taken[i] << shift;
      carry = shift != 0 ? taken[i] >> (64 - shift) : 0;
    }
    if (auto written = user.write(at / 64 + done, std::span(buffer).first(run)); !written) {
      // What the user has not heard of is still to be told.
      for (std::uint64_t i = 0; i < run && done + i < words(); ++i) {
        words_[done + i].fetch_or(taken[i], std::memory_order_relaxed);
      }
      return written;
    }
    done += run;
  }
  return {};
}

}  // namespace uvfio::iommu::type1
