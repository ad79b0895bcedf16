#include "iommu/type1/dirty_bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace uvfio::iommu::type1 {
namespace {

class Words : public UserBitmap {
 public:
  Words(std::size_t size, std::uint64_t fill) : words(size, fill) {}
  Result<std::uint64_t> read(std::uint64_t word) override { return words.at(word); }
  Status write(std::uint64_t word, std::span<const std::uint64_t> data) override {
    std::ranges::copy(data, words.begin() + static_cast<std::ptrdiff_t>(word));
    return {};
  }
  std::vector<std::uint64_t> words;
};

TEST(DirtyBitmap, ReportsInPlace) {
  DirtyBitmap bitmap(130);
  bitmap.set(0, 1);
  bitmap.set(62, 4);
  bitmap.set(129, 1);
  Words user(4, ~std::uint64_t{0});
  ASSERT_TRUE(bitmap.report(user, 0, DirtyBitmap::Take::no));
  EXPECT_EQ(user.words, (std::vector<std::uint64_t>{0xc000000000000001, 3, 2, ~std::uint64_t{0}}));
}

TEST(DirtyBitmap, ShiftsAndKeepsTheSharedWord) {
  DirtyBitmap bitmap(64);
  bitmap.set(0, 1);
  bitmap.set(63, 1);
  Words user(3, 0x10f);
  ASSERT_TRUE(bitmap.report(user, 4, DirtyBitmap::Take::no));
  EXPECT_EQ(user.words, (std::vector<std::uint64_t>{0x11f, 1u << 3, 0x10f}));
}

TEST(DirtyBitmap, TakesWhatItReports) {
  DirtyBitmap bitmap(100);
  bitmap.set(0, 100);
  Words user(2, 5);
  ASSERT_TRUE(bitmap.report(user, 0, DirtyBitmap::Take::yes));
  EXPECT_EQ(user.words, (std::vector<std::uint64_t>{~std::uint64_t{0}, 0xfffffffff}));
  ASSERT_TRUE(bitmap.report(user, 0, DirtyBitmap::Take::yes));
  EXPECT_EQ(user.words, (std::vector<std::uint64_t>{0, 0}));
}

TEST(DirtyBitmap, KeepsWhatCouldNotBeTold) {
  class Broken final : public UserBitmap {
   public:
    Result<std::uint64_t> read(std::uint64_t) override { return 0; }
    Status write(std::uint64_t, std::span<const std::uint64_t>) override { return fail(EFAULT); }
  } broken;
  DirtyBitmap bitmap(10);
  bitmap.set(3, 1);
  EXPECT_EQ(bitmap.report(broken, 0, DirtyBitmap::Take::yes), fail(EFAULT));
  Words user(1, 0);
  ASSERT_TRUE(bitmap.report(user, 0, DirtyBitmap::Take::yes));
  EXPECT_EQ(user.words[0], 8u);
}

}  // namespace
}  // namespace uvfio::iommu::type1
