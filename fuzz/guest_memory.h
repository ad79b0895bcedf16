// Memory of a guest, of which pieces are mapped for its device, and what the device may not do with
// it: pages that it may not write stay as they are, and those that it may not read hold a secret,
// which must not turn up anywhere else.
#pragma once

#include <linux/vfio.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <source_location>
#include <span>
#include <vector>

#include "tests/support/fake_address_space.h"

namespace uvfio::fuzz {

inline void check(bool good, std::source_location where = std::source_location::current()) {
  if (good) return;
  std::fprintf(stderr, "%s:%u: a check fails\n", where.file_name(), where.line());
  std::abort();
}

// One thread, but for the device's.
class GuestMemory {
 public:
  static constexpr std::uint64_t kPages = 20;
  static constexpr std::uint64_t kSize = kPages * memory::kPageSize;
  static constexpr std::uint32_t kReadWrite = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

  // The first pages are where 28 bits reach, the last ones at the end of all addresses.
  static std::uint64_t iova(std::uint64_t page) {
    return page < kLowPages ? kLow + page * memory::kPageSize : (page - kPages) * memory::kPageSize;
  }

  GuestMemory() {
    static std::mt19937_64 random{std::random_device{}()};
    // Another each time, for the fuzzer might learn it.
    const std::uint64_t secret = random();
    for (std::size_t at = 0; at < memory::kPageSize; at += sizeof secret)
      std::memcpy(secret_page_.data() + at, &secret, sizeof secret);
    for (std::uint64_t page = 0; page < kPages; ++page) hide(page);
  }

  [[nodiscard]] std::shared_ptr<testing::FakeAddressSpace> space() const { return space_; }

  // As the guest's processor: what is not readable for the device is left alone.
  void fill(std::uint64_t offset, const std::vector<std::byte>& bytes) {
    for (const std::byte byte : bytes) {
      if (offset >= kSize) return;
      if (readable(offset / memory::kPageSize)) {
        space_->memory[offset] = byte;
        shadow_[offset] = byte;
      }
      ++offset;
    }
  }

  // `call` makes the ioctl; true: it has succeeded.
  template <typename Call>
  void map(std::uint64_t first, std::uint64_t pages, std::uint32_t flags, Call&& call) {
    const auto run = clip(first, pages);
    const bool taken = std::ranges::any_of(run, [](std::uint32_t each) { return each != 0; });
    const bool show = !taken && (flags & VFIO_DMA_MAP_FLAG_READ) != 0;
    for (std::uint64_t page = first; page < first + run.size(); ++page) {
      check_page(page);
      if (show) write(page, own(page));
    }
    const bool done = call(vfio_iommu_type1_dma_map{.argsz = sizeof(vfio_iommu_type1_dma_map),
                                                    .flags = flags,
                                                    .vaddr = kVaddr + first * memory::kPageSize,
                                                    .iova = iova(first),
                                                    .size = run.size() * memory::kPageSize});
    check(!done || (!taken && !run.empty()));
    if (done) std::ranges::fill(run, flags);
    for (std::uint64_t page = first; !done && show && page < first + run.size(); ++page) hide(page);
  }
  template <typename Call>
  void unmap(std::uint64_t first, std::uint64_t pages, Call&& call) {
    const auto run = clip(first, pages);
    if (!call(vfio_iommu_type1_dma_unmap{.argsz = sizeof(vfio_iommu_type1_dma_unmap),
                                         .iova = iova(first),
                                         .size = run.size() * memory::kPageSize})) {
      return;
    }
    // From here on the device touches none of it.
    for (std::uint64_t page = first; page < first + run.size(); ++page) {
      check_page(page);
      hide(page);
    }
    std::ranges::fill(run, 0);
  }

  [[nodiscard]] bool has_secret(std::span<const std::byte> data) const {
    return data.size() >= kSecret &&
           memmem(data.data(), data.size(), secret_page_.data(), kSecret) != nullptr;
  }
  // Call when the device is at rest.
  void check_all() const {
    for (std::uint64_t page = 0; page < kPages; ++page) check_page(page);
  }

 private:
  static constexpr std::uint64_t kLow = 0x80'0000;
  static constexpr std::uint64_t kLowPages = 16;
  static constexpr std::uint64_t kVaddr = 0x4000'0000;
  static constexpr std::size_t kSecret = sizeof(std::uint64_t);
  using Page = std::array<std::byte, memory::kPageSize>;

  // The same in each run, because it takes so long to make.
  static const std::shared_ptr<testing::FakeAddressSpace>& shared_space() {
    static const auto space = std::make_shared<testing::FakeAddressSpace>(kVaddr, kSize);
    return space;
  }
  [[nodiscard]] std::byte* at(std::uint64_t page) const {
    return space_->memory.data() + page * memory::kPageSize;
  }
  [[nodiscard]] std::span<std::uint32_t> clip(std::uint64_t first, std::uint64_t pages) {
    const std::uint64_t end = first < kLowPages ? kLowPages : kPages;
    return std::span(flags_).subspan(first, std::min(pages, end - first));
  }
  [[nodiscard]] bool readable(std::uint64_t page) const {
    return (flags_[page] & VFIO_DMA_MAP_FLAG_READ) != 0;
  }
  void write(std::uint64_t page, const Page& bytes) {
    std::memcpy(at(page), bytes.data(), bytes.size());
    std::memcpy(shadow_.data() + page * memory::kPageSize, bytes.data(), bytes.size());
  }
  // Not what a device has anyhow, so that each write to it shows.
  static Page own(std::uint64_t page) {
    Page bytes;
    bytes.fill(static_cast<std::byte>(page + 1));
    return bytes;
  }
  void hide(std::uint64_t page) { write(page, secret_page_); }
  void check_page(std::uint64_t page) const {
    if ((flags_[page] & VFIO_DMA_MAP_FLAG_WRITE) == 0)
      check(memcmp(at(page), shadow_.data() + page * memory::kPageSize, memory::kPageSize) == 0);
    if (readable(page)) check(!has_secret(std::span(at(page), memory::kPageSize)));
  }

  std::shared_ptr<testing::FakeAddressSpace> space_ = shared_space();
  std::vector<std::byte> shadow_ = std::vector<std::byte>(kSize);
  Page secret_page_{};
  std::array<std::uint32_t, kPages> flags_{};  // VFIO_DMA_MAP_FLAG_*; 0: not mapped
};

}  // namespace uvfio::fuzz
