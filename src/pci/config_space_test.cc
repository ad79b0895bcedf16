#include "pci/config_space.h"

#include <gtest/gtest.h>

#include <array>

namespace uvfio::pci {
namespace {

constexpr std::uint16_t kBar0 = offset_of(ConfigRegister::bar0);

const std::array kFields{
    read_only(ConfigRegister::vendor_id, 2, 0x1234),
    ConfigField{.offset = 0x04, .width = 2, .value = 0x0001, .writable = 0x0006},
    io_bar(0, 8),
    io_bar(1, 256),
    read_write(ConfigRegister::interrupt_line, 1),
};

std::uint32_t read32(const ConfigSpace& space, std::uint64_t offset) {
  std::uint32_t value = 0;
  EXPECT_TRUE(space.read(offset, std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

void write32(ConfigSpace& space, std::uint64_t offset, std::uint32_t value) {
  EXPECT_TRUE(space.write(offset, std::as_bytes(std::span(&value, 1))));
}

TEST(ConfigSpace, KeepsReadOnlyBits) {
  ConfigSpace space(256, kFields);
  write32(space, 0x00, 0xffffffff);
  write32(space, 0x04, 0xfffffff8);
  write32(space, 0x80, 0xffffffff);
  EXPECT_EQ(read32(space, 0x00), 0x1234u);
  EXPECT_EQ(read32(space, 0x04), 0x0001u);
  EXPECT_EQ(read32(space, 0x80), 0u);
  write32(space, 0x04, 0xffffffff);
  EXPECT_EQ(read32(space, 0x04), 0x0007u);
}

TEST(ConfigSpace, BarsTellTheirSize) {
  ConfigSpace space(256, kFields);
  EXPECT_EQ(read32(space, kBar0), 0x00000001u);
  write32(space, kBar0, 0xffffffff);
  EXPECT_EQ(read32(space, kBar0), 0xfffffff9u);
  write32(space, kBar0 + 4, 0xffffffff);
  EXPECT_EQ(read32(space, kBar0 + 4), 0xffffff01u);
  write32(space, kBar0, 0xc000);
  EXPECT_EQ(read32(space, kBar0), 0xc001u);
}

TEST(ConfigSpace, WritesSingleBytes) {
  ConfigSpace space(256, kFields);
  const std::array byte{std::byte{0xab}};
  EXPECT_TRUE(space.write(kBar0 + 1, byte));
  EXPECT_EQ(read32(space, kBar0), 0xab01u);
}

TEST(ConfigSpace, ModelsWriteWhatClientsCannot) {
  ConfigSpace space(256, kFields);
  space.declare(0x60, "PCI");
  space.set(0, 2, 0x4321);
  EXPECT_EQ(space.get(0, 2), 0x4321u);
  EXPECT_EQ(space.get(0x60, 4), 0x00494350u);
}

TEST(ConfigSpace, RefusesWhatIsOutside) {
  ConfigSpace space(256, kFields);
  std::array<std::byte, 4> data{};
  EXPECT_TRUE(space.read(252, data));
  EXPECT_EQ(space.read(253, data).error(), Errno{EFAULT});
  EXPECT_EQ(space.write(253, data).error(), Errno{EFAULT});
  EXPECT_EQ(space.read(UINT64_MAX, data).error(), Errno{EFAULT});
  EXPECT_EQ(space.write(UINT64_MAX - 3, data).error(), Errno{EFAULT});
}

}  // namespace
}  // namespace uvfio::pci
