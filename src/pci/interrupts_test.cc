#include "pci/interrupts.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/support/irq_client.h"

namespace uvfio::pci {
namespace {

class InterruptsTest : public testing::Test {
 protected:
  Interrupts interrupts_{2};
  IrqClient<Interrupts> client_{interrupts_};
  Counter a_, b_;
};

TEST_F(InterruptsTest, NothingHappensBeforeTheClientAsks) {
  interrupts_.raise();
  interrupts_.set_level(true);
  EXPECT_EQ(client_.disable(kIntx), -EINVAL);
  EXPECT_EQ(client_.disable(kMsi), -EINVAL);
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL);
  EXPECT_EQ(client_.trigger(kMsi), -EINVAL);
  EXPECT_EQ(client_.unmask(), -EINVAL);
}

TEST_F(InterruptsTest, IntxMasksItselfUntilUnmasked) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  interrupts_.raise();
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 1u);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(a_.take(), 0u) << "a pulse on a masked pin is lost";
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 1u);
}

TEST_F(InterruptsTest, AHeldLevelSignalsAtEveryUnmask) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  interrupts_.set_level(true);
  EXPECT_EQ(a_.take(), 1u);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(a_.take(), 1u);
  interrupts_.set_level(false);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(a_.take(), 0u);
}

TEST_F(InterruptsTest, ALevelThatIsUpSignalsWhenEnabled) {
  interrupts_.set_level(true);
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  EXPECT_EQ(a_.take(), 1u);
}

TEST_F(InterruptsTest, ClientMasksAndUnmasks) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  EXPECT_EQ(client_.set(kNone | kMask, kIntx, 0, 1), 0);
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 0u);
  EXPECT_EQ(client_.set(kBool | kUnmask, kIntx, 0, 1, {}, {0}), 0);
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 0u);
  EXPECT_EQ(client_.set(kBool | kUnmask, kIntx, 0, 1, {}, {1}), 0);
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 1u);
  EXPECT_EQ(client_.set(kEventfd | kMask, kIntx, 0, 1, {a_.get()}), -ENOTTY);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {-1}), -ENOTTY);
  EXPECT_EQ(client_.set(kNone | kMask, kIntx, 1, 1), -EINVAL);
  EXPECT_EQ(client_.set(kNone | kMask, kIntx, 0, 0), -EINVAL);
}

TEST_F(InterruptsTest, AClientsTriggerIsAnInterruptLikeAnyOther) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  EXPECT_EQ(client_.trigger(kIntx), 0);
  EXPECT_EQ(client_.trigger(kIntx), 0);
  EXPECT_EQ(client_.set(kBool | kTrigger, kIntx, 0, 1, {}, {1}), 0);
  EXPECT_EQ(a_.take(), 1u);
}

TEST_F(InterruptsTest, ABadEventfdLeavesIntxOff) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  const int directory = open("/", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {directory}), -EINVAL);
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL);
  close(directory);
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {directory}), -EBADF);
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {-1}), 0) << "off is off";
}

TEST_F(InterruptsTest, ANewEventfdReplacesTheOldAndUnmasks) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 1u);
  ASSERT_EQ(client_.enable(kIntx, b_), 0);
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 0u);
  EXPECT_EQ(b_.take(), 1u);
}

TEST_F(InterruptsTest, OneKindAtATime) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  EXPECT_EQ(client_.enable(kMsi, b_), -EINVAL);
  ASSERT_EQ(client_.disable(kIntx), 0);
  ASSERT_EQ(client_.enable(kMsi, b_), 0);
  EXPECT_EQ(client_.enable(kIntx, a_), -EINVAL);
  EXPECT_EQ(client_.disable(kIntx), -EINVAL);
}

TEST_F(InterruptsTest, MsiVectorsSignalEachTime) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 2, {a_.get(), b_.get()}), 0);
  interrupts_.raise(0);
  interrupts_.raise(0);
  interrupts_.raise(1);
  interrupts_.raise(2);
  EXPECT_EQ(a_.take(), 2u);
  EXPECT_EQ(b_.take(), 1u);
  EXPECT_EQ(client_.set(kBool | kTrigger, kMsi, 0, 2, {}, {0, 1}), 0);
  EXPECT_EQ(a_.take(), 0u);
  EXPECT_EQ(b_.take(), 1u);
}

TEST_F(InterruptsTest, MsiIsOffWhenItsLastVectorGoes) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 2, {a_.get(), b_.get()}), 0);
  ASSERT_EQ(client_.set(kEventfd | kTrigger, kMsi, 1, 1, {-1}), 0);
  EXPECT_EQ(client_.trigger(kMsi), 0);
  ASSERT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 1, {-1}), 0);
  EXPECT_EQ(client_.trigger(kMsi), -EINVAL);
}

TEST_F(InterruptsTest, ABadEventfdRemovesTheVectorsOfTheCall) {
  ASSERT_EQ(client_.enable(kMsi, a_), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 2, {b_.get(), 1 << 20}), -EBADF);
  EXPECT_EQ(client_.trigger(kMsi), -EINVAL);
}

TEST_F(InterruptsTest, RefusesWhatIsOutOfRange) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 2, 1, {a_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 1, 2, {a_.get(), b_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 0), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, UINT32_MAX, 1, {a_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 2, {a_.get(), b_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1), -EINVAL) << "payload missing";
  EXPECT_EQ(client_.set(kBool | kTrigger, kMsi, 0, 1), -EINVAL) << "payload missing";
}

TEST_F(InterruptsTest, HasNoHandlerForTheRest) {
  EXPECT_EQ(client_.trigger(VFIO_PCI_MSIX_IRQ_INDEX), -ENOTTY);
  EXPECT_EQ(client_.trigger(VFIO_PCI_REQ_IRQ_INDEX), -ENOTTY);
  EXPECT_EQ(client_.set(kNone | kMask, kMsi, 0, 1), -ENOTTY);
  EXPECT_EQ(client_.set(kNone, kIntx, 0, 1), -ENOTTY);
  EXPECT_EQ(client_.set(kNone | kMask | kUnmask, kMsi, 0, 1), -ENOTTY);
}

TEST_F(InterruptsTest, DisableForgetsEverything) {
  ASSERT_EQ(client_.enable(kIntx, a_), 0);
  interrupts_.disable();
  interrupts_.raise();
  EXPECT_EQ(a_.take(), 0u);
  EXPECT_EQ(client_.enable(kMsi, a_), 0);
}

TEST_F(InterruptsTest, SurvivesChangesWhileInterruptsArrive) {
  std::jthread device([this](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      interrupts_.raise(0);
      interrupts_.set_level(true);
      interrupts_.set_level(false);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    EXPECT_EQ(client_.enable(kIntx, a_), 0);
    EXPECT_EQ(client_.unmask(), 0);
    EXPECT_EQ(client_.disable(kIntx), 0);
    EXPECT_EQ(client_.enable(kMsi, b_), 0);
    EXPECT_EQ(client_.disable(kMsi), 0);
  }
}

}  // namespace
}  // namespace uvfio::pci
