#include "iommu/type1/pin_table.h"

#include <gtest/gtest.h>

namespace uvfio::iommu::type1 {
namespace {

TEST(PinTable, CountsFirstPinsAndLastUnpins) {
  PinTable table;
  EXPECT_EQ(table.pin(500, 100), 100u);  // spans two chunks
  EXPECT_EQ(table.pin(510, 10), 0u);
  EXPECT_EQ(table.pin(590, 20), 10u);
  EXPECT_EQ(table.pinned(), 110u);
  EXPECT_EQ(table.unpin(500, 110), 90u);  // 510..519 and 590..599 are still held once
  EXPECT_EQ(table.pinned(), 20u);
  EXPECT_EQ(table.unpin(500, 110), 20u);
  EXPECT_EQ(table.pinned(), 0u);
}

TEST(PinTable, UnpinOfWhatIsNotPinnedIsSilent) {
  PinTable table;
  EXPECT_EQ(table.unpin(0, 10), 0u);
  EXPECT_EQ(table.pin(0, 1), 1u);
  EXPECT_EQ(table.unpin(0, 10), 1u);
}

TEST(PinTable, AnEmptyChunkMayHaveNoChunkBeforeIt) {
  PinTable table;
  EXPECT_EQ(table.pin(1u << 30, 3), 3u);
  EXPECT_EQ(table.pin(100, 2), 2u);
  EXPECT_EQ(table.pin(0, 2000), 1998u);
  EXPECT_EQ(table.unpin(0, std::uint64_t{2} << 30), 2001u);
  EXPECT_EQ(table.pinned(), 2u) << "100 and 101 were pinned twice";
}

TEST(PinTable, ChunksThatAreUsedAgainAreEmpty) {
  PinTable one;
  PinTable other;
  for (std::uint64_t round = 0; round < 10; ++round) {
    EXPECT_EQ(one.pin(round * 512, 512), 512u);
    EXPECT_EQ(one.unpin(round * 512, 512), 512u);
    EXPECT_EQ(other.pin(round * 1000, 700), 700u);
    EXPECT_EQ(one.pinned(), 0u);
  }
  EXPECT_EQ(other.pinned(), 7000u);
}

TEST(PinTable, ListsRuns) {
  PinTable table;
  table.pin(510, 4);
  table.pin(1999, 1);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> runs;
  table.for_each_run(
      [&](std::uint64_t first, std::uint64_t count) { runs.emplace_back(first, count); });
  EXPECT_EQ(runs, (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{510, 4}, {1999, 1}}));
}

TEST(PinTable, CostsLessThanEightBytesAPinnedPage) {
  PinTable table;
  table.pin(0, 1 << 20);
  EXPECT_LE(table.memory_bytes(), 8u << 20);
  table.unpin(0, 1 << 20);
  EXPECT_EQ(table.memory_bytes(), 0u);  // chunks are given back
}

}  // namespace
}  // namespace uvfio::iommu::type1
