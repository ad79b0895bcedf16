#include "devices/endpoint/endpoint.h"

#include <gtest/gtest.h>

#include "pci/function.h"
#include "pci/layout.h"
#include "tests/support/pci_port.h"

namespace uvfio::endpoint {
namespace {

TEST(EndpointTest, IsAFunction) {
  auto made = pci::Function::create(std::make_unique<Endpoint>());
  ASSERT_TRUE(made);
  auto& function = **made;
  EXPECT_EQ(function.config_get(0, 4), 0xb500104cu);
  function.config_set(4, 2, pci::kCommandMemory);

  std::uint32_t value = 0x12345678;
  ASSERT_TRUE(function.bar_write(0, 0, std::as_bytes(std::span(&value, 1))));
  ASSERT_TRUE(function.bar_write(2, 0xfffc, std::as_bytes(std::span(&value, 1))));
  function.hot_reset();
  function.config_set(4, 2, pci::kCommandMemory);
  ASSERT_TRUE(function.bar_read(0, 0, std::as_writable_bytes(std::span(&value, 1))));
  EXPECT_EQ(value, 0u);
  ASSERT_TRUE(function.bar_write(0, 0, std::as_bytes(std::span(&value, 1))));
  ASSERT_TRUE(function.bar_read(2, 0xfffc, std::as_writable_bytes(std::span(&value, 1))));
  EXPECT_EQ(value, 0u);
}

TEST(EndpointTest, CopiesByDmaAndInterrupts) {
  testing::PciPort port(8192);
  Endpoint endpoint;
  endpoint.connect(port);
  const auto write = [&](std::uint64_t offset, unsigned width, std::uint64_t value) {
    endpoint.write_bar(0, offset, width, value);
  };
  port.memory()[17] = std::byte{0x5a};
  write(offsetof(Registers, source), 4, testing::PciPort::kIova & 0xffff'ffff);
  write(offsetof(Registers, source) + 4, 4, testing::PciPort::kIova >> 32);
  write(offsetof(Registers, destination), 4, (testing::PciPort::kIova + 4000) & 0xffff'ffff);
  write(offsetof(Registers, destination) + 4, 4, testing::PciPort::kIova >> 32);
  write(offsetof(Registers, size), 4, 200);
  write(offsetof(Registers, interrupt_number), 4, 2);
  write(offsetof(Registers, command), 4, kCopy);
  EXPECT_EQ(endpoint.read_bar(0, offsetof(Registers, status), 4), kCopyDone | kInterruptRaised);
  EXPECT_EQ(port.memory()[4017], std::byte{0x5a});
  EXPECT_EQ(port.raised(1), 1u);

  port.bus_master = false;
  write(offsetof(Registers, command), 4, kCopy);
  EXPECT_EQ(endpoint.read_bar(0, offsetof(Registers, status), 4),
            kCopyDone << 1 | kSourceInvalid | kInterruptRaised);
}

}  // namespace
}  // namespace uvfio::endpoint
