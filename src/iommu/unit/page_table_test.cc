#include "iommu/unit/page_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace uvfio::iommu {
namespace {

using vfio::Prot;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMega2 = 2 << 20;
constexpr std::uint64_t kGiga = 1 << 30;
constexpr std::uint64_t kAll = 0x40201000;
constexpr std::uint64_t kAny = ~std::uint64_t{0};
constexpr std::uint64_t kLast48 = (std::uint64_t{1} << 48) - 1;

TEST(PageTable, TakesTheLargestPagesThatFit) {
  PageTable table(kAll, kLast48, 0);
  // A page before a 2 MiB boundary, up to a page beyond a 1 GiB boundary.
  const std::uint64_t start = kGiga - kMega2 - kPage;
  ASSERT_TRUE(table.map(start, {.address = 0x7000'0000'0000}, kPage + kMega2 + kGiga + kPage,
                        Prot::read, kAny));
  EXPECT_EQ(table.leaves(), (std::array<std::uint64_t, 3>{2, 1, 1}));
  const auto leaf = table.walk(kGiga + 5);
  EXPECT_EQ(leaf.first, kGiga);
  EXPECT_EQ(leaf.last, 2 * kGiga - 1);
  EXPECT_EQ(leaf.target.address, 0x7000'0000'0000 + kPage + kMega2);
  EXPECT_EQ(leaf.prot, Prot::read);
  EXPECT_FALSE(leaf.target.copy);
  EXPECT_FALSE(table.walk(start - 1).present());
  EXPECT_FALSE(table.walk(2 * kGiga + kPage).present());
  EXPECT_EQ(table.unmap(start, 2 * kGiga + kPage - 1), kPage + kMega2 + kGiga + kPage);
  EXPECT_FALSE(table.walk(kGiga).present());
  table.reclaim();
  EXPECT_EQ(table.memory_bytes(), PageTable(kAll, kLast48, 0).memory_bytes()) << "only the root";
}

TEST(PageTable, KeepsToItsPageSizesAndToTheOnesAsked) {
  PageTable small(kPage, kLast48, 0);
  ASSERT_TRUE(small.map(0, {.address = kGiga}, kMega2, Prot::read_write, kAny));
  EXPECT_EQ(small.leaves()[0], 512u);
  PageTable asked(kAll, kLast48, 0);
  ASSERT_TRUE(asked.map(0, {.address = kGiga}, kMega2, Prot::read_write, kPage));
  EXPECT_EQ(asked.leaves()[0], 512u);
}

TEST(PageTable, MapsAllOrNothing) {
  PageTable table(kAll, kLast48, 0);
  ASSERT_TRUE(table.map(3 * kPage, {.address = kGiga, .copy = true}, kPage, Prot::write, kAny));
  EXPECT_EQ(table.map(kPage, {.address = kGiga}, 4 * kPage, Prot::read, kAny), fail(EADDRINUSE));
  EXPECT_FALSE(table.walk(kPage).present());
  EXPECT_TRUE(table.walk(3 * kPage).target.copy);
  EXPECT_EQ(table.map(0, {.address = kGiga}, kGiga, Prot::read, kAny), fail(EADDRINUSE));
  EXPECT_EQ(table.leaves(), (std::array<std::uint64_t, 3>{1, 0, 0}));
  EXPECT_EQ(table.map(kLast48 + 1, {.address = kGiga}, kPage, Prot::read, kAny), fail(ERANGE));
  EXPECT_EQ(table.map(kLast48 + 1 - kPage, {.address = kGiga}, 2 * kPage, Prot::read, kAny),
            fail(ERANGE));
  EXPECT_TRUE(table.map(kLast48 + 1 - kPage, {.address = kGiga}, kPage, Prot::read, kAny));
}

TEST(PageTable, StopsAtItsLimitAndLeavesNothingBehind) {
  const std::uint64_t root = PageTable(kAll, kLast48, 0).memory_bytes();
  PageTable table(kAll, kLast48, 5 * root);
  ASSERT_TRUE(table.map(0, {.address = kGiga}, kPage, Prot::read, kAny));
  // Needs two tables at once: one of them is too much.
  EXPECT_EQ(table.map(kGiga - kPage, {.address = kGiga}, 2 * kPage, Prot::read, kAny),
            fail(ENOMEM));
  EXPECT_FALSE(table.walk(kGiga - kPage).present());
  table.reclaim();
  EXPECT_EQ(table.memory_bytes(), 4 * root);
  EXPECT_TRUE(table.map(kGiga - kPage, {.address = kGiga}, kPage, Prot::read, kAny));
}

TEST(PageTable, ReachesTheLastByteOfAnyAperture) {
  for (const unsigned bits : {13u, 32u, 39u, 48u, 57u, 64u}) {
    const std::uint64_t last = bits == 64 ? kAny : (std::uint64_t{1} << bits) - 1;
    PageTable table(kAll, last, 0);
    ASSERT_TRUE(table.map(last - (kPage - 1), {.address = kGiga}, kPage, Prot::read, kAny)) << bits;
    EXPECT_EQ(table.walk(last).last, last);
    EXPECT_EQ(table.unmap(0, kAny), kPage);
  }
}

TEST(PageTable, MatchesASimpleModel) {
  std::mt19937_64 random(7);
  PageTable table(kAll, kLast48, 0);
  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>> model;  // iova: size, address
  for (int step = 0; step < 3000; ++step) {
    const std::uint64_t unit = std::array{kPage, kMega2, kGiga}[random() % 3];
    const std::uint64_t iova = random() % 16 * unit + random() % 4 * kPage;
    const std::uint64_t size = (1 + random() % 3) * unit;
    if (random() % 2 == 0) {
      const bool free = std::ranges::none_of(model, [&](const auto& entry) {
        return entry.first < iova + size && iova < entry.first + entry.second.first;
      });
      const std::uint64_t address = (1 + random() % 1000) * kPage;
      const auto mapped = table.map(iova, {.address = address}, size, Prot::read, kAny);
      ASSERT_EQ(mapped.has_value(), free);
      if (free) model[iova] = {size, address};
    } else if (!model.empty()) {
      const auto at = std::next(model.begin(), static_cast<long>(random() % model.size()));
      ASSERT_EQ(table.unmap(at->first, at->first + at->second.first - 1), at->second.first);
      model.erase(at);
      if (random() % 8 == 0) table.reclaim();
    }
    const std::uint64_t probe = random() % (20 * kGiga);
    const auto leaf = table.walk(probe);
    auto above = model.upper_bound(probe);
    const bool there =
        above != model.begin() && probe - std::prev(above)->first < std::prev(above)->second.first;
    ASSERT_EQ(leaf.present(), there);
    if (there) {
      --above;
      ASSERT_EQ(leaf.target.address + (probe - leaf.first),
                above->second.second + (probe - above->first));
    }
  }
  for (const auto& [iova, entry] : model) table.unmap(iova, iova + entry.first - 1);
  table.reclaim();
  EXPECT_EQ(table.leaves(), (std::array<std::uint64_t, 3>{}));
  EXPECT_EQ(table.memory_bytes(), PageTable(kAll, kLast48, 0).memory_bytes());
}

}  // namespace
}  // namespace uvfio::iommu
