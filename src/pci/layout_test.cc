#include "pci/layout.h"

#include <gtest/gtest.h>

namespace uvfio::pci {
namespace {

TEST(Layout, SplitsAPosition) {
  const RegionPosition place = split_position(region_offset(7) + 0x3c);
  EXPECT_EQ(place.index, 7u);
  EXPECT_EQ(place.offset, 0x3cu);
  EXPECT_EQ(split_position(UINT64_MAX).index, 0xffffffu);
}

TEST(Layout, AccessesAreNaturallyAlignedAndFit) {
  EXPECT_EQ(access_width(0, 8), 4u);
  EXPECT_EQ(access_width(4, 3), 2u);
  EXPECT_EQ(access_width(2, 8), 2u);
  EXPECT_EQ(access_width(1, 8), 1u);
  EXPECT_EQ(access_width(0, 1), 1u);
  EXPECT_EQ(access_width(0, 64, 8), 8u);
  EXPECT_EQ(access_width(region_offset(7), SIZE_MAX), 4u);
}

}  // namespace
}  // namespace uvfio::pci
