#include "devices/nvme/data_pointer.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "tests/support/pci_port.h"

namespace uvfio::nvme {

bool operator==(const Segment& a, const Segment& b) { return a.iova == b.iova && a.size == b.size; }

namespace {

using testing::PciPort;
constexpr std::uint64_t kBase = PciPort::kIova;

class DataPointer : public ::testing::Test {
 protected:
  CommandStatus find(std::uint64_t size, std::uint64_t page_size = 4096) {
    segments_.clear();
    return find_data(dma_, command_, size, page_size, segments_);
  }
  template <typename T>
  void store(std::uint64_t offset, const T& value) {
    std::memcpy(&port_.memory()[offset], &value, sizeof value);
  }
  void sgl(std::uint64_t address, std::uint32_t length, SglKind kind, std::uint8_t subtype = 0) {
    const SglDescriptor each = descriptor(address, length, kind, subtype);
    std::memcpy(command_.dptr, &each, sizeof each);
    command_.flags = 0x40;
  }
  static SglDescriptor descriptor(std::uint64_t address, std::uint32_t length, SglKind kind,
                                  std::uint8_t subtype = 0) {
    return {.address = address,
            .length = length,
            .id = static_cast<std::uint8_t>(static_cast<unsigned>(kind) << 4 | subtype)};
  }

  PciPort port_{4 << 20};
  vfio::Dma dma_ = *port_.dma();
  Command command_{};
  std::vector<Segment> segments_;
};

TEST_F(DataPointer, OnePageFromInside) {
  command_.dptr[0] = 0x10200;
  EXPECT_EQ(find(512), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{{0x10200, 512}}));
}

TEST_F(DataPointer, TwoPages) {
  command_.dptr[0] = 0x10200;
  command_.dptr[1] = 0x20000;
  EXPECT_EQ(find(4096), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{{0x10200, 0xe00}, {0x20000, 0x200}}));
}

TEST_F(DataPointer, NeighboursAreJoined) {
  command_.dptr[0] = 0x10000;
  command_.dptr[1] = 0x11000;
  EXPECT_EQ(find(8192), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{{0x10000, 8192}}));
}

TEST_F(DataPointer, ListWithAnOffset) {
  command_.dptr[0] = 0x10000;
  command_.dptr[1] = kBase + 0x800;
  store(0x800, std::array<std::uint64_t, 3>{0x30000, 0x50000, 0x70000});
  EXPECT_EQ(find(4096 * 3 + 512), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{
                           {0x10000, 4096}, {0x30000, 4096}, {0x50000, 4096}, {0x70000, 512}}));
}

TEST_F(DataPointer, ListsAreChainedByTheirLastEntry) {
  // One data entry and the chain entry at the end of the first list.
  command_.dptr[0] = 0x10000;
  command_.dptr[1] = kBase + 0xff0;
  store(0xff0, std::array<std::uint64_t, 2>{0x30000, kBase + 0x2000});
  store(0x2000, std::array<std::uint64_t, 2>{0x50000, 0x70000});
  EXPECT_EQ(find(4096 * 4), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{
                           {0x10000, 4096}, {0x30000, 4096}, {0x50000, 4096}, {0x70000, 4096}}));
  // Exactly filled: the last entry is data.
  EXPECT_EQ(find(4096 * 3), CommandStatus::success);
  EXPECT_EQ(segments_.back(), (Segment{kBase + 0x2000, 4096}));
}

TEST_F(DataPointer, LargerPagesHaveLongerLists) {
  command_.dptr[0] = 0x10000;
  command_.dptr[1] = kBase;
  std::vector<std::uint64_t> entries(700);
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = (2 * i + 4) << 16;
  std::memcpy(port_.memory().data(), entries.data(), entries.size() * 8);
  EXPECT_EQ(find(701ULL << 16, 1 << 16), CommandStatus::success);
  EXPECT_EQ(segments_.size(), 701U);
  EXPECT_EQ(segments_.back(), (Segment{entries.back(), 1 << 16}));
}

TEST_F(DataPointer, MalformedPrps) {
  command_.dptr[0] = 0x10001;
  EXPECT_EQ(find(512), CommandStatus::invalid_prp_offset);
  command_.dptr[0] = 0x10000;
  command_.dptr[1] = 0x20200;
  EXPECT_EQ(find(8192), CommandStatus::invalid_prp_offset);
  command_.dptr[1] = kBase + 4;
  EXPECT_EQ(find(65536), CommandStatus::invalid_prp_offset);
  command_.dptr[1] = kBase;
  store(0, std::uint64_t{0x30200});
  EXPECT_EQ(find(65536), CommandStatus::invalid_prp_offset);
  command_.dptr[1] = 0x9000;  // not mapped
  EXPECT_EQ(find(65536), CommandStatus::data_transfer_error);
  command_.flags = 0xc0;
  EXPECT_EQ(find(65536), CommandStatus::invalid_field);
}

TEST_F(DataPointer, SglDataBlock) {
  sgl(0x10003, 512, SglKind::data_block);
  EXPECT_EQ(find(512), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{{0x10003, 512}}));
  EXPECT_EQ(find(1024), CommandStatus::data_sgl_length_invalid);
  EXPECT_EQ(find(256), CommandStatus::data_sgl_length_invalid);
}

TEST_F(DataPointer, SglSegments) {
  store(0x1000, std::array{descriptor(0x10000, 100, SglKind::data_block),
                           descriptor(0x20000, 0, SglKind::data_block),
                           descriptor(kBase + 0x2000, 32, SglKind::last_segment)});
  store(0x2000, std::array{descriptor(0x30000, 156, SglKind::data_block),
                           descriptor(0x40000, 256, SglKind::data_block)});
  sgl(kBase + 0x1000, 48, SglKind::segment);
  EXPECT_EQ(find(512), CommandStatus::success);
  EXPECT_EQ(segments_, (std::vector<Segment>{{0x10000, 100}, {0x30000, 156}, {0x40000, 256}}));
  EXPECT_EQ(find(1024), CommandStatus::data_sgl_length_invalid);
}

TEST_F(DataPointer, MalformedSgls) {
  sgl(0x10000, 512, SglKind::bit_bucket);
  EXPECT_EQ(find(512), CommandStatus::sgl_type_invalid);
  sgl(0x10000, 512, SglKind::data_block, 1);
  EXPECT_EQ(find(512), CommandStatus::sgl_type_invalid);
  sgl(kBase, 24, SglKind::last_segment);
  EXPECT_EQ(find(512), CommandStatus::invalid_sgl_segment);
  sgl(kBase, 0, SglKind::last_segment);
  EXPECT_EQ(find(512), CommandStatus::invalid_sgl_segment);
  sgl(0x9000, 32, SglKind::last_segment);
  EXPECT_EQ(find(512), CommandStatus::data_transfer_error);
  // A chain inside a last segment, and one that is not at the end.
  store(0, std::array{descriptor(kBase, 32, SglKind::last_segment),
                      descriptor(0x10000, 512, SglKind::data_block)});
  sgl(kBase, 16, SglKind::last_segment);
  EXPECT_EQ(find(512), CommandStatus::invalid_sgl_segment);
  sgl(kBase, 32, SglKind::segment);
  EXPECT_EQ(find(512), CommandStatus::invalid_sgl_count);
}

TEST_F(DataPointer, SglsThatGoInCirclesEnd) {
  store(0, std::array{descriptor(0x10000, 0, SglKind::data_block),
                      descriptor(kBase, 32, SglKind::segment)});
  sgl(kBase, 32, SglKind::segment);
  EXPECT_EQ(find(512), CommandStatus::invalid_sgl_count);
}

}  // namespace
}  // namespace uvfio::nvme
