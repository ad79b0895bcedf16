#include "devices/mtty/mtty_device.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>

#include <numeric>
#include <string>
#include <thread>

#include "pci/layout.h"
#include "tests/support/irq_client.h"

namespace uvfio::mtty {
namespace {

using namespace pci;  // NOLINT(google-build-using-namespace): names of SET_IRQS bits

constexpr std::uint64_t kConfig = region_offset(VFIO_PCI_CONFIG_REGION_INDEX);
constexpr std::uint64_t kBar0 = region_offset(VFIO_PCI_BAR0_REGION_INDEX);
constexpr std::uint64_t kBar1 = region_offset(VFIO_PCI_BAR1_REGION_INDEX);

// A client that makes single accesses.
class Client {
 public:
  explicit Client(unsigned ports) : device(ports) {}

  template <typename T>
  T read(std::uint64_t position) {
    T value{};
    const auto done = device.read(position, std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_EQ(done.value_or(0), sizeof value) << std::hex << position;
    return value;
  }
  template <typename T>
  void write(std::uint64_t position, T value) {
    const auto done = device.write(position, std::as_bytes(std::span(&value, 1)));
    EXPECT_EQ(done.value_or(0), sizeof value) << std::hex << position;
  }
  std::uint8_t in(std::uint64_t position) { return read<std::uint8_t>(position); }
  void out(std::uint64_t position, std::uint8_t value) { write(position, value); }

  MttyDevice device;
};

class MttyDeviceTest : public testing::Test {
 protected:
  Client one_{1};
  Client two_{2};
  IrqClient<MttyDevice> irqs_{one_.device};
  Counter counter_;
};

TEST_F(MttyDeviceTest, DescribesItself) {
  const vfio::DeviceInfo info = one_.device.info();
  EXPECT_EQ(info.flags, VFIO_DEVICE_FLAGS_PCI);
  EXPECT_EQ(info.num_regions, 9u);
  EXPECT_EQ(info.num_irqs, 5u);
}

TEST_F(MttyDeviceTest, DescribesItsRegions) {
  for (std::uint32_t index = 0; index < VFIO_PCI_NUM_REGIONS; ++index) {
    const auto region = two_.device.region_info(index);
    ASSERT_TRUE(region);
    EXPECT_EQ(region->offset, region_offset(index));
    EXPECT_EQ(region->flags, VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE);
    const std::uint64_t expected =
        index == VFIO_PCI_CONFIG_REGION_INDEX ? 255 : (index < 2 ? 8 : 0);
    EXPECT_EQ(region->size, expected) << index;
  }
  EXPECT_EQ(one_.device.region_info(1)->size, 0u);
  EXPECT_EQ(one_.device.region_info(9).error(), Errno{EINVAL});
}

TEST_F(MttyDeviceTest, DescribesItsInterrupts) {
  EXPECT_EQ(one_.device.irq_info(kIntx)->flags,
            VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED);
  EXPECT_EQ(one_.device.irq_info(kIntx)->count, 1u);
  EXPECT_EQ(one_.device.irq_info(kMsi)->flags, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE);
  EXPECT_EQ(one_.device.irq_info(kMsi)->count, 1u);
  for (const std::uint32_t index : {2u, 3u, 4u, 5u, UINT32_MAX}) {
    EXPECT_EQ(one_.device.irq_info(index).error(), Errno{EINVAL}) << index;
  }
  EXPECT_EQ(one_.device.irq_limit(4), 5u);
  EXPECT_EQ(one_.device.irq_limit(5).error(), Errno{EINVAL});
}

TEST_F(MttyDeviceTest, HasTheConfigurationSpaceOfTheSample) {
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_VENDOR_ID), 0x32534348u);
  EXPECT_EQ(one_.read<std::uint16_t>(kConfig + PCI_COMMAND), 0x0001u);
  EXPECT_EQ(one_.read<std::uint16_t>(kConfig + PCI_STATUS), 0x0200u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_CLASS_REVISION), 0x07000210u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0), 1u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_1), 0u);
  EXPECT_EQ(two_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_1), 1u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_SUBSYSTEM_VENDOR_ID), 0x32534348u);
  EXPECT_EQ(one_.in(kConfig + PCI_CAPABILITY_LIST), 0);
  EXPECT_EQ(one_.in(kConfig + PCI_INTERRUPT_PIN), 1);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + 0x40), 0x80000023u);
  std::array<char, 16> name{};
  ASSERT_TRUE(one_.device.read(kConfig + 0x60, std::as_writable_bytes(std::span(name))));
  EXPECT_STREQ(name.data(), "PCI Serial/UART");
}

TEST_F(MttyDeviceTest, SizesItsBars) {
  for (const std::uint64_t bar : {PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_1}) {
    two_.write<std::uint32_t>(kConfig + bar, 0xffffffff);
    EXPECT_EQ(two_.read<std::uint32_t>(kConfig + bar), 0xfffffff9u);
    two_.write<std::uint32_t>(kConfig + bar, 0xc000);
    EXPECT_EQ(two_.read<std::uint32_t>(kConfig + bar), 0xc001u);
  }
  one_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_1, 0xffffffff);
  one_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_2, 0xffffffff);
  one_.write<std::uint32_t>(kConfig + PCI_ROM_ADDRESS, 0xfffff800);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_1), 0u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_2), 0u);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_ROM_ADDRESS), 0u);
}

TEST_F(MttyDeviceTest, KeepsOddAddressesAsTheSampleDoes) {
  one_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0, 0xe004);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0), 0xe005u);
  one_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0, 0xd003);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0), 0xd003u);
  one_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0, 0);
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0), 3u);
}

TEST_F(MttyDeviceTest, FixedConfigurationStaysFixed) {
  for (std::uint64_t offset = 0; offset < 256; offset += 4) {
    if (offset == PCI_BASE_ADDRESS_0) continue;
    const auto before = one_.read<std::uint32_t>(kConfig + offset);
    one_.write<std::uint32_t>(kConfig + offset, ~before);
    const std::uint32_t changed = one_.read<std::uint32_t>(kConfig + offset) ^ before;
    EXPECT_EQ(changed, offset == PCI_INTERRUPT_LINE ? 0xffu : 0u) << offset;
  }
}

TEST_F(MttyDeviceTest, SplitsLongAccesses) {
  std::array<std::byte, 255> config{};
  EXPECT_EQ(one_.device.read(kConfig, config), config.size());
  EXPECT_EQ(config[0], std::byte{0x48});
  EXPECT_EQ(config[3], std::byte{0x32});
  EXPECT_EQ(one_.read<std::uint32_t>(kConfig + 1), 0x01325343u);

  // Each piece is one access of the register that it starts at.
  one_.write<std::uint64_t>(kBar0, 0x8877665544332211);
  EXPECT_EQ(one_.in(kBar0 + UART_MCR), 0x55);
  EXPECT_EQ(one_.in(kBar0 + UART_SCR), 0);
  EXPECT_EQ(one_.read<std::uint64_t>(kBar0), 0x0000005500000011u);
}

TEST_F(MttyDeviceTest, RefusesPositionsWithoutRegister) {
  std::byte byte{};
  const std::span data(&byte, 1);
  for (const std::uint64_t position :
       {kBar1, region_offset(2), region_offset(5), region_offset(VFIO_PCI_ROM_REGION_INDEX),
        region_offset(VFIO_PCI_VGA_REGION_INDEX), region_offset(9), kConfig + 256,
        region_offset(8) - 1, std::uint64_t{INT64_MAX}, UINT64_MAX}) {
    EXPECT_EQ(one_.device.read(position, data).error(), Errno{EFAULT}) << std::hex << position;
    EXPECT_EQ(one_.device.write(position, data).error(), Errno{EFAULT}) << std::hex << position;
    EXPECT_EQ(one_.device.read(position, {}), 0u);
  }
  std::array<std::byte, 300> much{};
  EXPECT_EQ(one_.device.read(kConfig, much).error(), Errno{EFAULT});
  EXPECT_EQ(one_.in(kBar0 + 8), 0) << "behind the registers there is nothing, but no error";
}

TEST_F(MttyDeviceTest, PortsAreSeparate) {
  two_.out(kBar0 + UART_TX, 'a');
  two_.out(kBar1 + UART_TX, 'b');
  EXPECT_EQ(two_.in(kBar1 + UART_RX), 'b');
  EXPECT_EQ(two_.in(kBar0 + UART_RX), 'a');
}

TEST_F(MttyDeviceTest, InterruptsOnEachPort) {
  IrqClient<MttyDevice> irqs(two_.device);
  ASSERT_EQ(irqs.enable(kMsi, counter_), 0);
  two_.out(kBar0 + UART_IER, UART_IER_THRI);
  EXPECT_EQ(counter_.take(), 1u);
  two_.out(kBar1 + UART_IER, UART_IER_MSI);
  two_.out(kBar1 + UART_MCR, UART_MCR_OUT2 | UART_MCR_RTS);
  EXPECT_EQ(counter_.take(), 2u);
}

TEST_F(MttyDeviceTest, IntxMasksItself) {
  ASSERT_EQ(irqs_.enable(kIntx, counter_), 0);
  one_.out(kBar0 + UART_FCR, UART_FCR_ENABLE_FIFO);
  one_.out(kBar0 + UART_IER, UART_IER_RDI | UART_IER_THRI);
  EXPECT_EQ(counter_.take(), 1u);
  one_.out(kBar0 + UART_TX, 'a');
  EXPECT_EQ(counter_.take(), 0u);
  EXPECT_EQ(irqs_.unmask(), 0);
  EXPECT_EQ(counter_.take(), 0u) << "what happened in between is lost, as in the sample";
  one_.in(kBar0 + UART_RX);
  EXPECT_EQ(counter_.take(), 1u);
}

TEST_F(MttyDeviceTest, SetIrqsAnswersAsTheSample) {
  EXPECT_EQ(irqs_.set(kNone, kIntx, 0, 1), 0) << "no action";
  EXPECT_EQ(irqs_.set(kNone | kMask | kUnmask, kMsi, 0, 1), 0) << "two actions";
  EXPECT_EQ(irqs_.set(kNone | kMask, kMsi, 0, 1), -ENOTTY);
  for (const std::uint32_t index : {2u, 3u, 4u}) {
    EXPECT_EQ(irqs_.trigger(index), -ENOTTY);
    EXPECT_EQ(irqs_.set(kNone, index, 0, 1), -ENOTTY);
  }
  EXPECT_EQ(irqs_.set(kEventfd | kTrigger, kMsi, 0, 2, {counter_.get(), counter_.get()}), -EINVAL);
}

TEST_F(MttyDeviceTest, CloseTurnsInterruptsOff) {
  ASSERT_EQ(irqs_.enable(kMsi, counter_), 0);
  one_.device.close_device();
  EXPECT_EQ(irqs_.trigger(kMsi), -EINVAL);
  one_.out(kBar0 + UART_IER, UART_IER_THRI);
  EXPECT_EQ(counter_.take(), 0u);
}

TEST_F(MttyDeviceTest, RegistersOutliveCloseAndReset) {
  one_.out(kBar0 + UART_SCR, 0x5a);
  one_.device.close_device();
  EXPECT_TRUE(one_.device.reset());
  EXPECT_EQ(one_.in(kBar0 + UART_SCR), 0x5a);
}

TEST_F(MttyDeviceTest, LogsNoDma) {
  vfio::DmaLogging* logging = one_.device.dma_logging();
  ASSERT_NE(logging, nullptr);
  std::uint64_t page_size = 12345;
  EXPECT_TRUE(logging->start({}, page_size));
  EXPECT_EQ(page_size, 12345u);
  bool dirty = false;
  EXPECT_TRUE(logging->report(0, 4096, 4096, [&](std::uint64_t, std::uint64_t) -> Status {
    dirty = true;
    return {};
  }));
  EXPECT_FALSE(dirty);
  EXPECT_TRUE(logging->stop());
}

TEST_F(MttyDeviceTest, ManyThreadsUseItAtOnce) {
  std::vector<std::jthread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) {
    threads.emplace_back([this, seed] {
      for (unsigned i = 0; i < 3000; ++i) {
        two_.out((i % 2 ? kBar1 : kBar0) + (i + seed) % 8, static_cast<std::uint8_t>(i * 7));
        two_.in((i % 2 ? kBar0 : kBar1) + i % 8);
        two_.write<std::uint32_t>(kConfig + PCI_BASE_ADDRESS_0, i << 3);
      }
    });
  }
  threads.emplace_back([this] {
    IrqClient<MttyDevice> irqs(two_.device);
    for (unsigned i = 0; i < 3000; ++i) {
      EXPECT_EQ(irqs.enable(kIntx, counter_), 0);
      EXPECT_EQ(irqs.unmask(), 0);
      EXPECT_EQ(irqs.disable(kIntx), 0);
      EXPECT_TRUE(two_.device.reset());
    }
  });
}

TEST(PortPool, GivesWhatItHas) {
  PortPool pool(3);
  auto two = pool.reserve(2);
  ASSERT_TRUE(two);
  EXPECT_FALSE(pool.reserve(2));
  EXPECT_EQ(pool.free(), 1u);
  {
    const MttyDevice device(2, std::move(*two));
    EXPECT_EQ(pool.free(), 1u);
  }
  EXPECT_EQ(pool.free(), 3u);
}

}  // namespace
}  // namespace uvfio::mtty
