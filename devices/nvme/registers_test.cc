#include "devices/nvme/registers.h"

#include <gtest/gtest.h>

namespace uvfio::nvme {
namespace {

TEST(Bits, TakesAndPutsFields) {
  using Field = Bits<10, 7>;
  EXPECT_EQ(Field::kMask, 0x780U);
  EXPECT_EQ(Field::get(0xffff), 15U);
  EXPECT_EQ(Field::put(0x1f), 0x780U);
  EXPECT_EQ((Bits<63, 0>::kMask), ~std::uint64_t{0});
}

TEST(RegisterFile, SaysWhatItIs) {
  RegisterFile file;
  EXPECT_EQ(file.read(0x08), 0x00010400U);
  const std::uint64_t capabilities = file.get(RegisterId::cap);
  EXPECT_EQ(cap::Mqes::get(capabilities), kMaxQueueEntries - 1U);
  EXPECT_EQ(cap::Cqr::get(capabilities), 1U);
  EXPECT_EQ(cap::Css::get(capabilities), 1U);
  file.write(0x00, 0);
  file.write(0x08, 0);
  EXPECT_EQ(file.get(RegisterId::cap), capabilities);
  EXPECT_EQ(file.get(RegisterId::vs), kVersion);
}

TEST(RegisterFile, KeepsWritableBitsOnly) {
  RegisterFile file;
  EXPECT_EQ(file.write(0x14, 0xffffffff), RegisterFile::Effect::configuration);
  EXPECT_EQ(file.read(0x14), 0x00fffff1U);
  file.write(0x24, 0xffffffff);
  EXPECT_EQ(file.read(0x24), 0x0fff0fffU);
  file.write(0x28, 0x12345678);
  file.write(0x2c, 0x9abcdef0);
  EXPECT_EQ(file.get(RegisterId::asq), 0x9abcdef012345000U);
}

TEST(RegisterFile, SetsAndClearsTheInterruptMask) {
  RegisterFile file;
  EXPECT_EQ(file.write(0x0c, 0x0f), RegisterFile::Effect::interrupt_mask);
  file.write(0x0c, 0xf0);
  EXPECT_EQ(file.write(0x10, 0x11), RegisterFile::Effect::interrupt_mask);
  EXPECT_EQ(file.read(0x0c), 0xeeU);
  EXPECT_EQ(file.read(0x10), 0xeeU);
  EXPECT_EQ(file.interrupt_mask(), 0xeeU);
}

TEST(RegisterFile, ResetsSubsystemByCodeOnly) {
  RegisterFile file;
  EXPECT_EQ(file.write(0x20, 1), RegisterFile::Effect::none);
  EXPECT_EQ(file.write(0x20, kSubsystemResetCode), RegisterFile::Effect::subsystem_reset);
  EXPECT_EQ(file.read(0x20), 0U);
  file.set_status(csts::Nssro::kMask | csts::Rdy::kMask);
  file.write(0x1c, csts::Nssro::kMask | csts::Rdy::kMask);
  EXPECT_EQ(file.read(0x1c), csts::Rdy::kMask);
}

TEST(RegisterFile, ControllerResetKeepsTheAdminQueue) {
  RegisterFile file;
  file.write(0x24, 0x001f001f);
  file.write(0x28, 0x1000);
  file.write(0x30, 0x2000);
  file.write(0x0c, 1);
  file.set_status(csts::Rdy::kMask | csts::Cfs::kMask);
  file.controller_reset();
  EXPECT_EQ(file.read(0x24), 0x001f001fU);
  EXPECT_EQ(file.get(RegisterId::asq), 0x1000U);
  EXPECT_EQ(file.get(RegisterId::acq), 0x2000U);
  EXPECT_EQ(file.interrupt_mask(), 0U);
  EXPECT_EQ(file.read(0x1c), 0U);
  file.power_on();
  EXPECT_EQ(file.read(0x24), 0U);
}

TEST(RegisterFile, HasNothingBeyondItsEnd) {
  RegisterFile file;
  EXPECT_EQ(file.write(0x38, 1), RegisterFile::Effect::none);
  EXPECT_EQ(file.read(0x38), 0U);
  EXPECT_EQ(file.read(0xffc), 0U);
}

}  // namespace
}  // namespace uvfio::nvme
