#include "iommu/type1/iova_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace uvfio::iommu::type1 {
namespace {

using testing::ElementsAre;
using Range = IovaRanges::Range;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST(IovaRanges, WithoutLimitsEverythingIsValid) {
  const IovaRanges ranges;
  EXPECT_TRUE(ranges.unlimited());
  EXPECT_TRUE(ranges.contains(0, kMax));
}

TEST(IovaRanges, ApertureWithoutReservedRegions) {
  IovaRanges ranges;
  ranges.restrict_to(0x1000, 0xffff'ffff);
  ranges.exclude(0xfee0'0000, 0xfeef'ffff);
  EXPECT_THAT(ranges.list(),
              ElementsAre(Range{0x1000, 0xfedf'ffff}, Range{0xfef0'0000, 0xffff'ffff}));
  EXPECT_FALSE(ranges.contains(0, 0x1fff));
  EXPECT_TRUE(ranges.contains(0x1000, 0xfedf'ffff));
  EXPECT_FALSE(ranges.contains(0x1000, 0xfee0'0000));
  EXPECT_FALSE(ranges.contains(0xfedf'f000, 0xfef0'0fff)) << "over the hole";
  EXPECT_EQ(ranges.limits(), (Range{0x1000, 0xffff'ffff}));
}

TEST(IovaRanges, CutsAtTheEdges) {
  IovaRanges ranges;
  ranges.reset({0x1000, 0x4fff});
  ranges.exclude(0, 0x1fff);
  ranges.exclude(0x4000, kMax);
  EXPECT_THAT(ranges.list(), ElementsAre(Range{0x2000, 0x3fff}));
  ranges.exclude(0x5000, 0x6000);
  ranges.exclude(0x2000, 0x3fff);
  EXPECT_TRUE(ranges.list().empty());
}

TEST(IovaRanges, NarrowsWhatThereIs) {
  IovaRanges ranges;
  ranges.reset({0, kMax});
  ranges.exclude(0x3000, 0x3fff);
  ranges.restrict_to(0x2000, 0x3fff);
  EXPECT_THAT(ranges.list(), ElementsAre(Range{0x2000, 0x2fff}));
  ranges.restrict_to(0x8000, 0x8fff);
  EXPECT_TRUE(ranges.list().empty());
}

}  // namespace
}  // namespace uvfio::iommu::type1
