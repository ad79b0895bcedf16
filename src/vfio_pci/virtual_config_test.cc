#include "vfio_pci/virtual_config.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <optional>

namespace uvfio::vfio_pci {
namespace {

// Hardware whose every bit can be written, unless a test says otherwise.
class FakeHardware final : public HardwareConfig {
 public:
  explicit FakeHardware(std::size_t size = 4096) : bytes(size) {}
  std::size_t size() const override { return bytes.size(); }
  std::uint32_t read(std::uint16_t offset, unsigned width) override {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < width; ++i) {
      value |= std::uint32_t{offset + i < bytes.size() ? bytes[offset + i] : std::uint8_t{0xff}}
               << (8 * i);
    }
    return value;
  }
  void write(std::uint16_t offset, unsigned width, std::uint32_t value) override {
    writes.push_back({offset, width});
    set(offset, width, value);
    if (on_write) on_write(offset);
  }
  void set(std::uint16_t offset, unsigned width, std::uint32_t value) {
    for (unsigned i = 0; i < width && offset + i < bytes.size(); ++i) {
      bytes[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
  }

  struct Write {
    std::uint16_t offset;
    unsigned width;
    bool operator==(const Write&) const = default;
  };
  std::vector<std::uint8_t> bytes;
  std::vector<Write> writes;
  std::function<void(std::uint16_t)> on_write;
};

class FakeEffects final : public ConfigEffects {
 public:
  void set_power_state(unsigned state) override { states.push_back(state); }
  void reset_function() override { ++resets; }
  void set_intx_disabled(bool disabled) override { intx.push_back(disabled); }
  unsigned msi_vectors() override { return vectors; }

  std::vector<unsigned> states;
  int resets = 0;
  std::vector<bool> intx;
  unsigned vectors = 0;
};

// A function with whatever capabilities a test puts there.
class VirtualConfigTest : public ::testing::Test {
 protected:
  VirtualConfigTest() {
    hardware_.set(PCI_VENDOR_ID, 2, 0x8086);
    hardware_.set(PCI_DEVICE_ID, 2, 0x10fb);
    hardware_.set(PCI_INTERRUPT_PIN, 1, 1);
  }

  // Appends to the standard list.
  void add(std::uint8_t id, std::uint8_t at) {
    hardware_.set(link_, 1, at);
    hardware_.set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
    hardware_.set(at, 1, id);
    hardware_.set(at + 1, 1, 0);
    link_ = at + 1;
  }
  void add_extended(std::uint16_t id, std::uint16_t at, unsigned version = 1) {
    if (extended_ != 0) {
      hardware_.set(extended_, 4, hardware_.read(extended_, 4) | std::uint32_t{at} << 20);
    }
    hardware_.set(at, 4, id | version << 16);
    extended_ = at;
  }
  void add_express(std::uint8_t at, unsigned version = 2, unsigned type = PCI_EXP_TYPE_ENDPOINT) {
    add(PCI_CAP_ID_EXP, at);
    hardware_.set(at + PCI_EXP_FLAGS, 2, version | type << 4);
    hardware_.set(at + PCI_EXP_DEVCAP, 4, PCI_EXP_DEVCAP_FLR);
  }

  void build() { config_.emplace(hardware_, effects_, resources_); }
  std::uint32_t read(std::uint64_t offset, unsigned width) {
    std::array<std::byte, 4> data{};
    EXPECT_TRUE(config_->read(offset, std::span(data).first(width)));
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), width);
    return value;
  }
  void write(std::uint64_t offset, unsigned width, std::uint32_t value) {
    hardware_.writes.clear();
    EXPECT_TRUE(config_->write(offset, std::as_bytes(std::span(&value, 1)).first(width)));
  }
  // Every byte of [begin, end) that a client can change, in the hardware.
  void expect_hardware_writable(std::uint16_t begin, std::uint16_t end,
                                const std::map<std::uint16_t, std::uint8_t>& bits) {
    for (std::uint16_t i = begin; i < end; ++i) {
      hardware_.set(i, 1, 0);
      write(i, 1, 0xff);
      const auto found = bits.find(i);
      EXPECT_EQ(hardware_.read(i, 1), found == bits.end() ? 0u : found->second)
          << "byte " << std::hex << i;
      hardware_.set(i, 1, 0);
    }
  }
  std::vector<std::uint32_t> standard_list() {
    std::vector<std::uint32_t> ids;
    for (std::uint32_t at = read(PCI_CAPABILITY_LIST, 1); at != 0 && ids.size() < 50;
         at = read(at + 1, 1)) {
      ids.push_back(read(at, 1));
    }
    return ids;
  }
  std::vector<std::uint32_t> extended_list() {
    std::vector<std::uint32_t> ids;
    for (std::uint32_t at = 0x100; at != 0 && ids.size() < 50; at = PCI_EXT_CAP_NEXT(read(at, 4))) {
      ids.push_back(PCI_EXT_CAP_ID(read(at, 4)));
    }
    return ids;
  }

  FakeHardware hardware_;
  FakeEffects effects_;
  BarResources resources_;
  std::optional<VirtualConfig> config_;
  std::uint16_t link_ = PCI_CAPABILITY_LIST;
  std::uint16_t extended_ = 0;
};

using Ids = std::vector<std::uint32_t>;

TEST_F(VirtualConfigTest, Header) {
  build();
  EXPECT_EQ(read(PCI_VENDOR_ID, 4), 0x10fb8086u);
  hardware_.set(PCI_VENDOR_ID, 2, 0xffff);
  EXPECT_EQ(read(PCI_VENDOR_ID, 2), 0x8086u) << "kept";
  hardware_.set(PCI_STATUS, 2, PCI_STATUS_INTERRUPT | PCI_STATUS_CAP_LIST);
  EXPECT_EQ(read(PCI_STATUS, 2), std::uint32_t{PCI_STATUS_INTERRUPT}) << "live, but for the list";
  write(PCI_INTERRUPT_LINE, 1, 0x55);
  EXPECT_EQ(read(PCI_INTERRUPT_LINE, 1), 0x55u);
  EXPECT_EQ(hardware_.read(PCI_INTERRUPT_LINE, 1), 0u) << "scratch";
  write(PCI_INTERRUPT_PIN, 1, 4);
  EXPECT_EQ(read(PCI_INTERRUPT_PIN, 1), 1u);
  EXPECT_EQ(config_->interrupt_pin(), 1u);
  expect_hardware_writable(0, PCI_STD_HEADER_SIZEOF,
                           {{PCI_COMMAND, 0xff},
                            {PCI_COMMAND + 1, 0xfb},  // but DisINTx
                            {PCI_CACHE_LINE_SIZE, 0xff},
                            {PCI_LATENCY_TIMER, 0xff},
                            {PCI_BIST, 0xff}});
}

TEST_F(VirtualConfigTest, AccessBeyondTheEnd) {
  build();
  std::array<std::byte, 8> data{};
  EXPECT_EQ(config_->read(4096, std::span(data).first(1)), fail(EFAULT));
  EXPECT_EQ(config_->read(4092, data), fail(EFAULT)) << "also when only the end is beyond";
  EXPECT_EQ(config_->write(4095, std::span(data).first(2)), fail(EFAULT));
  EXPECT_EQ(config_->read(~std::uint64_t{0}, data), fail(EFAULT));
  EXPECT_TRUE(config_->read(4088, data));
}

TEST_F(VirtualConfigTest, AccessesAreSplitIntoAlignedPiecesOfOneCapability) {
  add(PCI_CAP_ID_VNDR, 0x40);
  hardware_.set(0x42, 1, 7);  // ends in the middle of a register
  build();
  std::array<std::byte, 12> data{};
  hardware_.writes.clear();
  ASSERT_TRUE(config_->write(0x43, std::span(data).first(9)));
  using Write = FakeHardware::Write;
  EXPECT_EQ(hardware_.writes,
            (std::vector<Write>{{0x43, 1}, {0x44, 2}, {0x46, 1}, {0x47, 1}, {0x48, 4}}));
}

TEST_F(VirtualConfigTest, UnclaimedBytesAreTheHardwares) {
  build();
  write(0x80, 4, 0x12345678);
  EXPECT_EQ(hardware_.read(0x80, 4), 0x12345678u);
  hardware_.set(0x80, 4, 1);
  EXPECT_EQ(read(0x80, 4), 1u);
  write(0x800, 2, 0xabcd);
  EXPECT_EQ(read(0x800, 2), 0xabcdu);
}

TEST_F(VirtualConfigTest, BarsAreSizedByWhatIsReadBack) {
  hardware_.set(PCI_BASE_ADDRESS_0, 4, 0xfe00'000c);
  hardware_.set(PCI_BASE_ADDRESS_1, 4, 0x1);
  hardware_.set(PCI_BASE_ADDRESS_2, 4, 0xc001);
  hardware_.set(PCI_BASE_ADDRESS_3, 4, 0xdead'0000);  // the host has given it nothing
  hardware_.set(PCI_ROM_ADDRESS, 4, 0xfd00'0000);
  resources_[0] = {0x10'0000, PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH};
  resources_[2] = {32, PCI_BASE_ADDRESS_SPACE_IO};
  resources_[6] = {0x1'0000, 0};
  build();
  EXPECT_EQ(read(PCI_BASE_ADDRESS_0, 4), 0xfe00'000cu);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_1, 4), 1u);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_2, 4), 0xc001u);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_3, 4), 0u);
  for (const unsigned offset : {0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30}) {
    write(offset, 4, 0xffff'ffff);
    EXPECT_EQ(hardware_.writes.size(), 0u) << "the real ones do not move";
  }
  EXPECT_EQ(read(PCI_BASE_ADDRESS_0, 4), 0xfff0'000cu);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_1, 4), 0xffff'ffffu);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_2, 4), 0xffff'ffe1u);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_3, 4), 0u);
  EXPECT_EQ(read(PCI_ROM_ADDRESS, 4), 0xffff'0001u);
  for (unsigned i = 0; i < 4; ++i) write(PCI_BASE_ADDRESS_0 + i, 1, 0);  // byte by byte
  EXPECT_EQ(read(PCI_BASE_ADDRESS_0, 4), 0xcu);
  EXPECT_EQ(hardware_.read(PCI_BASE_ADDRESS_0, 4), 0xfe00'000cu);
}

TEST_F(VirtualConfigTest, UpperHalfOfABarAbove4GiBIsMasked) {
  resources_[0] = {std::uint64_t{1} << 33, PCI_BASE_ADDRESS_MEM_TYPE_64};
  build();
  write(PCI_BASE_ADDRESS_0, 4, 0xffff'ffff);
  write(PCI_BASE_ADDRESS_1, 4, 0xffff'ffff);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_0, 4), 4u);
  EXPECT_EQ(read(PCI_BASE_ADDRESS_1, 4), 0xffff'fffeu);
}

TEST_F(VirtualConfigTest, DisIntxIsVirtual) {
  build();
  write(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE | PCI_COMMAND_MASTER);
  EXPECT_EQ(effects_.intx, std::vector<bool>{true});
  EXPECT_EQ(read(PCI_COMMAND, 2), std::uint32_t{PCI_COMMAND_INTX_DISABLE | PCI_COMMAND_MASTER});
  EXPECT_EQ(hardware_.read(PCI_COMMAND, 2), std::uint32_t{PCI_COMMAND_MASTER});
  write(PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
  EXPECT_EQ(effects_.intx.size(), 1u) << "no change";
  write(PCI_COMMAND + 1, 1, 0);
  EXPECT_EQ(effects_.intx, (std::vector<bool>{true, false}));
}

TEST_F(VirtualConfigTest, BackdoorResetRestoresTheBars) {
  hardware_.set(PCI_BASE_ADDRESS_0, 4, 0xfe00'0000);
  resources_[0] = {0x1000, 0};
  build();
  write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  hardware_.set(PCI_COMMAND, 2, 0);
  hardware_.set(PCI_BASE_ADDRESS_0, 4, 0);
  write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  EXPECT_EQ(hardware_.read(PCI_BASE_ADDRESS_0, 4), 0xfe00'0000u);
  EXPECT_EQ(hardware_.read(PCI_COMMAND, 2), std::uint32_t{PCI_COMMAND_MEMORY});
  EXPECT_EQ(hardware_.writes.back(), (FakeHardware::Write{PCI_COMMAND, 2})) << "decoding last";
  write(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  EXPECT_EQ(hardware_.writes.size(), 1u) << "nothing to restore";
}

TEST_F(VirtualConfigTest, UnknownAndUnsupportedCapabilitiesAreTakenOut) {
  add(PCI_CAP_ID_SSVID, 0x40);
  add(PCI_CAP_ID_PM, 0x50);
  add(PCI_CAP_ID_SLOTID, 0x60);
  add(0, 0x64);
  add(PCI_CAP_ID_EA, 0x68);
  add(0x7f, 0x70);
  add(PCI_CAP_ID_MSIX, 0x80);
  add(PCI_CAP_ID_CHSWP, 0x90);
  build();
  EXPECT_EQ(standard_list(), (Ids{PCI_CAP_ID_PM, PCI_CAP_ID_MSIX}));
  EXPECT_NE(read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0u);
  write(0x62, 1, 0x77);
  EXPECT_EQ(hardware_.read(0x62, 1), 0x77u) << "the bytes are unclaimed";
  write(0x51, 1, 0x99);
  EXPECT_EQ(read(0x51, 1), 0x80u);
  EXPECT_EQ(hardware_.read(0x51, 1), 0x60u) << "the link is virtual";
}

TEST_F(VirtualConfigTest, NoCapabilityLeft) {
  add(PCI_CAP_ID_SSVID, 0x40);
  build();
  EXPECT_EQ(read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0u);
  EXPECT_EQ(read(PCI_CAPABILITY_LIST, 1), 0u);
}

TEST_F(VirtualConfigTest, ListsThatLoopOrLeaveEnd) {
  add(PCI_CAP_ID_PM, 0x40);
  hardware_.set(0x41, 1, 0x40);
  build();
  add(PCI_CAP_ID_PM, 0xf8);
  hardware_.set(0xf9, 1, 0x10);  // into the header
  build();
  EXPECT_EQ(read(PCI_CAPABILITY_LIST, 1), 0x40u);
}

TEST_F(VirtualConfigTest, PowerManagement) {
  add(PCI_CAP_ID_PM, 0x40);
  hardware_.set(0x42, 2, 0xfe03);
  hardware_.set(0x44, 2, PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS);
  build();
  EXPECT_EQ(read(0x42, 2), 0x0603u) << "no PME support";
  EXPECT_EQ(read(0x44, 2), 0u);
  hardware_.set(0x44, 2, 0);
  write(0x44, 2, 3);
  EXPECT_EQ(effects_.states, std::vector<unsigned>{3});
  EXPECT_EQ(hardware_.read(0x44, 2), 0u) << "the state is the driver's to change";
  write(0x45, 1, 3);
  EXPECT_EQ(effects_.states.size(), 1u) << "not the state's byte";
  hardware_.set(0x44, 2, 3);
  EXPECT_EQ(read(0x44, 2), 3u) << "read from the hardware";
  expect_hardware_writable(0x40, 0x48, {{0x44, 0xfc}, {0x45, 0x7e}, {0x46, 0xff}, {0x47, 0xff}});
}

TEST_F(VirtualConfigTest, VitalProductData) {
  add(PCI_CAP_ID_VPD, 0x40);
  build();
  // Hardware that does what it is asked.
  std::map<std::uint32_t, std::uint32_t> memory{{4, 0xcafe}};
  hardware_.on_write = [&](std::uint16_t offset) {
    if (offset != 0x42) return;
    hardware_.on_write = nullptr;
    const std::uint32_t address = hardware_.read(0x42, 2);
    if ((address & PCI_VPD_ADDR_F) != 0) {
      memory[address & PCI_VPD_ADDR_MASK] = hardware_.read(0x44, 4);
    } else {
      hardware_.set(0x44, 4, memory[address]);
    }
    hardware_.set(0x42, 2, address ^ PCI_VPD_ADDR_F);
  };
  const auto works = hardware_.on_write;
  write(0x42, 1, 4);
  EXPECT_EQ(hardware_.writes.size(), 0u) << "the lower half alone starts nothing";
  write(0x42, 2, 4);
  EXPECT_EQ(read(0x42, 2), 4u | PCI_VPD_ADDR_F);
  EXPECT_EQ(read(0x44, 4), 0xcafeu);
  hardware_.on_write = works;
  write(0x44, 4, 0xbeef);
  write(0x42, 2, 8 | PCI_VPD_ADDR_F);
  EXPECT_EQ(read(0x42, 2), 8u);
  EXPECT_EQ(memory[8], 0xbeefu);
  hardware_.on_write = nullptr;  // no answer: the flag stays
  write(0x42, 2, 8 | PCI_VPD_ADDR_F);
  EXPECT_EQ(read(0x42, 2), 8u | PCI_VPD_ADDR_F);
}

TEST_F(VirtualConfigTest, ExpressResetIsTrappedAndReadsZero) {
  add_express(0x40);
  build();
  write(0x48, 2, PCI_EXP_DEVCTL_BCR_FLR);
  EXPECT_EQ(effects_.resets, 1);
  EXPECT_EQ(read(0x48, 2), 0u);
  EXPECT_EQ(hardware_.read(0x48, 2), 0u) << "the hardware's bit is not set";
  hardware_.set(0x44, 4, 0);
  write(0x48, 2, PCI_EXP_DEVCTL_BCR_FLR);
  EXPECT_EQ(effects_.resets, 1) << "the device cannot";
  EXPECT_EQ(read(0x48, 2), 0u);
}

TEST_F(VirtualConfigTest, ExpressSizes) {
  add_express(0x40);
  hardware_.set(0x48, 2, 2 << 12 | 2 << 5);  // 512 bytes both
  build();
  write(0x48, 2, 5 << 12 | 5 << 5);
  EXPECT_EQ(read(0x48, 2), 5u << 12 | 5u << 5);
  EXPECT_EQ(hardware_.read(0x48, 2), 5u << 12 | 2u << 5) << "payload is the fabric's";
  write(0x48, 2, 0);
  EXPECT_EQ(hardware_.read(0x48, 2), 2u << 12 | 2u << 5) << "not below the payload";
  write(0x48, 2, 7 << 12);
  EXPECT_EQ(hardware_.read(0x48, 2), 2u << 12 | 2u << 5) << "no such size";
  expect_hardware_writable(0x44, 0x74, {{0x48, 0x1f}, {0x49, 0x0d}, {0x68, 0xdf}, {0x69, 0xff}});
}

TEST_F(VirtualConfigTest, AdvancedFeatures) {
  add(PCI_CAP_ID_AF, 0x40);
  hardware_.set(0x43, 1, PCI_AF_CAP_FLR | PCI_AF_CAP_TP);
  build();
  write(0x44, 1, PCI_AF_CTRL_FLR);
  EXPECT_EQ(effects_.resets, 1);
  EXPECT_EQ(read(0x44, 1), 0u);
  hardware_.set(0x43, 1, PCI_AF_CAP_FLR);
  write(0x44, 1, PCI_AF_CTRL_FLR);
  EXPECT_EQ(effects_.resets, 1);
}

TEST_F(VirtualConfigTest, MsiIsEnabledBySetIrqsOnly) {
  add(PCI_CAP_ID_MSI, 0x40);
  hardware_.set(0x42, 2, PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 3 << 1);
  build();
  write(0x44, 4, 0xfee0'0000);
  write(0x48, 4, 1);
  write(0x4c, 2, 0x4021);
  EXPECT_EQ(read(0x44, 4), 0xfee0'0000u);
  EXPECT_EQ(read(0x48, 4), 1u);
  EXPECT_EQ(read(0x4c, 2), 0x4021u);
  EXPECT_EQ(hardware_.read(0x44, 4) | hardware_.read(0x48, 4) | hardware_.read(0x4c, 2), 0u);
  constexpr std::uint32_t kBits = PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 3 << 1;
  write(0x42, 2, kBits | PCI_MSI_FLAGS_ENABLE | 3 << 4);
  EXPECT_EQ(read(0x42, 2), kBits);
  effects_.vectors = 3;  // rounds up to 4
  write(0x42, 2, kBits | PCI_MSI_FLAGS_ENABLE | 3 << 4);
  EXPECT_EQ(read(0x42, 2), kBits | PCI_MSI_FLAGS_ENABLE | 2u << 4) << "no more than are set up";
  EXPECT_EQ(hardware_.read(0x42, 2), kBits | PCI_MSI_FLAGS_ENABLE | 2u << 4);
  write(0x50, 4, 0x5);
  EXPECT_EQ(hardware_.read(0x50, 4), 5u) << "masks are the hardware's";
  write(0x58, 4, 0x5);
  EXPECT_EQ(hardware_.read(0x58, 4), 5u) << "behind the capability";
}

TEST_F(VirtualConfigTest, LayoutOfMsiWithoutUpperAddress) {
  add(PCI_CAP_ID_MSI, 0x40);
  build();
  write(0x48, 2, 0x4021);
  EXPECT_EQ(hardware_.writes.size(), 0u);
  EXPECT_EQ(read(0x48, 2), 0x4021u);
  write(0x4a, 2, 0x1);
  EXPECT_EQ(hardware_.writes.size(), 1u) << "10 bytes";
}

TEST_F(VirtualConfigTest, OtherStandardCapabilities) {
  add(PCI_CAP_ID_MSIX, 0x40);
  add(PCI_CAP_ID_AGP, 0x50);
  add(PCI_CAP_ID_PCIX, 0x60);
  add(PCI_CAP_ID_HT, 0x80);
  add(PCI_CAP_ID_SATA, 0xa0);
  add(PCI_CAP_ID_VNDR, 0xb0);
  hardware_.set(0xb2, 1, 0x10);
  build();
  EXPECT_EQ(standard_list(), (Ids{PCI_CAP_ID_MSIX, PCI_CAP_ID_AGP, PCI_CAP_ID_PCIX, PCI_CAP_ID_HT,
                                  PCI_CAP_ID_SATA, PCI_CAP_ID_VNDR}));
  expect_hardware_writable(0x42, 0x4c, {});
  expect_hardware_writable(0x52, 0x5c, {});
  expect_hardware_writable(0x62, 0x68, {{0x62, 0xff}, {0x63, 0xff}});
  expect_hardware_writable(0x82, 0x80 + HT_CAP_SIZEOF_LONG, {});
  expect_hardware_writable(0xa2, 0xa8, {});
  write(0xb4, 4, 0x1234'5678);
  EXPECT_EQ(read(0xb4, 4), 0x1234'5678u);
  write(0xb0, 2, 0);
  EXPECT_EQ(read(0xb0, 2), std::uint32_t{PCI_CAP_ID_VNDR});
}

TEST_F(VirtualConfigTest, ExtendedListNeedsExpress) {
  add_extended(PCI_EXT_CAP_ID_DSN, 0x100);
  build();
  write(0x104, 4, 1);
  EXPECT_EQ(hardware_.read(0x104, 4), 1u) << "unclaimed";
}

TEST_F(VirtualConfigTest, ExtendedCapabilities) {
  add_express(0x40);
  add_extended(PCI_EXT_CAP_ID_ERR, 0x100, 2);
  add_extended(PCI_EXT_CAP_ID_PASID, 0x140);
  add_extended(PCI_EXT_CAP_ID_DSN, 0x150);
  add_extended(PCI_EXT_CAP_ID_VNDR, 0x160);
  hardware_.set(0x164, 4, 0x10 << 20);
  add_extended(0x0fff, 0x170);
  add_extended(PCI_EXT_CAP_ID_ACS, 0x180);
  add_extended(PCI_EXT_CAP_ID_DVSEC, 0x190);
  hardware_.set(0x194, 4, 0x10 << 20);
  build();
  EXPECT_EQ(extended_list(), (Ids{PCI_EXT_CAP_ID_ERR, PCI_EXT_CAP_ID_DSN, PCI_EXT_CAP_ID_VNDR,
                                  PCI_EXT_CAP_ID_ACS, PCI_EXT_CAP_ID_DVSEC}));
  EXPECT_EQ(read(0x102, 1), 0x02u) << "version and link in one byte";
  expect_hardware_writable(0x154, 0x15c, {});
  expect_hardware_writable(0x184, 0x188, {});
  write(0x168, 4, 0x55);
  EXPECT_EQ(hardware_.read(0x168, 4), 0x55u);
  write(0x160, 4, 0);
  EXPECT_EQ(PCI_EXT_CAP_ID(read(0x160, 4)), std::uint32_t{PCI_EXT_CAP_ID_VNDR});
  hardware_.set(0x108, 4, 0);
  write(0x108, 4, 0xffff'ffff);
  EXPECT_EQ(hardware_.read(0x108, 4), 0x03fff031u) << "severity and masks of errors that exist";
}

TEST_F(VirtualConfigTest, HiddenFirstExtendedCapabilityLeavesAPlaceholder) {
  add_express(0x40);
  add_extended(PCI_EXT_CAP_ID_PASID, 0x100);
  add_extended(PCI_EXT_CAP_ID_LTR, 0x110);
  build();
  EXPECT_EQ(read(0x100, 4), 0x110u << 20);
  EXPECT_EQ(extended_list(), (Ids{0, PCI_EXT_CAP_ID_LTR}));
  write(0x104, 4, 9);
  EXPECT_EQ(hardware_.read(0x104, 4), 9u) << "only the header is claimed";
}

TEST_F(VirtualConfigTest, NoExtendedCapabilityLeft) {
  add_express(0x40);
  add_extended(PCI_EXT_CAP_ID_PASID, 0x100);
  add_extended(PCI_EXT_CAP_ID_PMUX, 0x110);
  build();
  EXPECT_EQ(read(0x100, 4), 0u);
}

TEST_F(VirtualConfigTest, ExtendedListsThatLoopOrLieAtTheEnd) {
  add_express(0x40);
  add_extended(PCI_EXT_CAP_ID_VNDR, 0x100);
  hardware_.set(0x104, 4, 0xfffu << 20);  // longer than the space
  add_extended(PCI_EXT_CAP_ID_DSN, 0xffc);
  hardware_.set(0xffc, 4, PCI_EXT_CAP_ID_TPH | 0x100u << 20);
  build();
  EXPECT_EQ(read(0x100, 2), std::uint32_t{PCI_EXT_CAP_ID_VNDR});
}

struct Length {
  bool extended;
  std::uint16_t id;
  std::uint16_t offset;
  std::uint32_t value;  // of the register there
  std::uint16_t length;
};
class CapabilityLength : public ::testing::TestWithParam<Length> {};

TEST_P(CapabilityLength, ComesFromTheRegisters) {
  const Length& param = GetParam();
  FakeHardware hardware;
  const std::uint16_t at = param.extended ? 0x200 : 0x40;
  hardware.set(at + param.offset, 4, param.value);
  const auto* capability = find_permission(param.extended, param.id);
  ASSERT_NE(capability, nullptr);
  EXPECT_EQ(capability_length(hardware, param.extended, *capability, at), param.length);
}

INSTANTIATE_TEST_SUITE_P(
    All, CapabilityLength,
    ::testing::Values(
        Length{false, PCI_CAP_ID_PM, 0, 0, 8}, Length{false, PCI_CAP_ID_MSI, 2, 0, 10},
        Length{false, PCI_CAP_ID_MSI, 2, PCI_MSI_FLAGS_64BIT, 14},
        Length{false, PCI_CAP_ID_MSI, 2, PCI_MSI_FLAGS_MASKBIT, 20},
        Length{false, PCI_CAP_ID_PCIX, 2, 0, 8}, Length{false, PCI_CAP_ID_PCIX, 2, 1 << 12, 24},
        Length{false, PCI_CAP_ID_HT, 3, 0, 28}, Length{false, PCI_CAP_ID_HT, 3, 0x20, 24},
        Length{false, PCI_CAP_ID_EXP, 2, 1, 20},
        Length{false, PCI_CAP_ID_EXP, 2, 1 | PCI_EXP_TYPE_RC_END << 4, 12},
        Length{false, PCI_CAP_ID_EXP, 2, 2, 0x34},
        Length{false, PCI_CAP_ID_EXP, 2, 2 | PCI_EXP_TYPE_RC_END << 4, 0x2c},
        Length{false, PCI_CAP_ID_SATA, 4, 0xf, 16}, Length{false, PCI_CAP_ID_SATA, 4, 4, 8},
        Length{false, PCI_CAP_ID_VNDR, 2, 0x14, 0x14},
        Length{true, PCI_EXT_CAP_ID_VNDR, 4, 0x30 << 20, 0x30},
        Length{true, PCI_EXT_CAP_ID_DVSEC, 4, 0x28 << 20, 0x28},
        Length{true, PCI_EXT_CAP_ID_VC, 4, 0, 0x1c},
        Length{true, PCI_EXT_CAP_ID_MFVC, 4, 7, 0x10 + 8 * 12},
        Length{true, PCI_EXT_CAP_ID_VC9, 8, PCI_VC_CAP2_32_PHASE, 0x20 + 16},
        Length{true, PCI_EXT_CAP_ID_VC, 8, PCI_VC_CAP2_128_PHASE, 0x20 + 64},
        Length{true, PCI_EXT_CAP_ID_ACS, 4, 0, 8},
        Length{true, PCI_EXT_CAP_ID_ACS, 4, PCI_ACS_EC | 33 << 8, 16},
        Length{true, PCI_EXT_CAP_ID_ACS, 4, PCI_ACS_EC, 40},
        Length{true, PCI_EXT_CAP_ID_REBAR, 8, 2 << 5, 20},
        Length{true, PCI_EXT_CAP_ID_DPA, 4, 3, 20}, Length{true, PCI_EXT_CAP_ID_TPH, 4, 0, 12},
        Length{true, PCI_EXT_CAP_ID_TPH, 4, PCI_TPH_LOC_CAP | 3 << 16, 20},
        Length{true, PCI_EXT_CAP_ID_SRIOV, 0, 0, 0x40}));

}  // namespace
}  // namespace uvfio::vfio_pci
