#include "vfio_pci/interrupts.h"

#include <gtest/gtest.h>
#include <linux/pci_regs.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "tests/support/irq_client.h"
#include "tests/support/pci_model.h"

namespace uvfio::vfio_pci {
namespace {

using pci::Counter;
using pci::kBool;
using pci::kEventfd;
using pci::kIntx;
using pci::kMask;
using pci::kMsi;
using pci::kNone;
using pci::kTrigger;
using pci::kUnmask;
using testing::PciModel;

constexpr std::uint32_t kMsix = VFIO_PCI_MSIX_IRQ_INDEX;
constexpr std::uint32_t kErr = VFIO_PCI_ERR_IRQ_INDEX;
constexpr std::uint32_t kReq = VFIO_PCI_REQ_IRQ_INDEX;
constexpr std::int32_t kNotOpen = 1000;

// A function whose model a test plays, and its client.
class InterruptsTest : public ::testing::Test {
 protected:
  InterruptsTest() {
    interrupts_.open();
    function_->config_set(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
  }

  void raise(unsigned vector) { record_.port->raise(vector); }
  void set_pin(bool asserted) { record_.port->set_intx(asserted); }
  pci::InterruptMode mode() { return record_.port->interrupt_mode(); }

  PciModel::Record record_;
  std::unique_ptr<pci::Function> function_ =
      *pci::Function::create(std::make_unique<PciModel>(PciModel::full(), record_));
  Interrupts interrupts_{*function_};
  pci::IrqClient<Interrupts> client_{interrupts_};
  std::array<Counter, 8> counters_;
  const Counter& counter_ = counters_[0];
  const Fd not_an_eventfd_{dup(2)};
};

// --- Which handlers there are

TEST_F(InterruptsTest, IndexesAndActionsWithoutHandler) {
  for (const std::uint32_t index : {kMsi, kMsix, kErr, kReq}) {
    EXPECT_EQ(client_.set(kNone | kMask, index, 0, 1), -ENOTTY) << index;
    EXPECT_EQ(client_.set(kNone | kUnmask, index, 0, 1), -ENOTTY) << index;
  }
  for (std::uint32_t index = 0; index < 6; ++index) {
    EXPECT_EQ(client_.set(kNone, index, 0, 1), -ENOTTY) << "no action";
    EXPECT_EQ(client_.set(kNone | kTrigger | kMask, index, 0, 1), -ENOTTY) << "two actions";
  }
  EXPECT_EQ(client_.set(kNone | kTrigger, 5, 0, 1), -ENOTTY);
}

TEST_F(InterruptsTest, IncompletePayload) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 2, {-1}), -EINVAL);
  EXPECT_EQ(client_.set(kBool | kTrigger, kMsi, 0, 1), -EINVAL);
  EXPECT_EQ(client_.set(kTrigger, kMsi, 0, 1), -EINVAL);
}

// --- INTx

TEST_F(InterruptsTest, IntxNotEnabled) {
  EXPECT_EQ(client_.disable(kIntx), -EINVAL) << "count is not 1";
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL);
  EXPECT_EQ(client_.set(kBool | kTrigger, kIntx, 0, 1, {}, {1}), -EINVAL);
  EXPECT_EQ(client_.set(kNone | kMask, kIntx, 0, 1), -EINVAL);
  EXPECT_EQ(client_.unmask(), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {counter_.get()}), -EINVAL);
}

TEST_F(InterruptsTest, IntxStartAndCount) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 2, {counter_.get(), -1}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 1, 1, {counter_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 0), -EINVAL);
}

TEST_F(InterruptsTest, IntxDescriptors) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {kNotOpen}), -EBADF);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {not_an_eventfd_.get()}), -EINVAL);
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL) << "still off";
  EXPECT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {kNotOpen}), -EBADF);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {kNotOpen}), -EBADF);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {not_an_eventfd_.get()}), -EINVAL);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u) << "the old eventfd is still there";
}

TEST_F(InterruptsTest, IntxMasksItself) {
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u);
  set_pin(false);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 0u);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(counter_.take(), 1u) << "still asserted";
  set_pin(false);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(counter_.take(), 0u);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u);
}

TEST_F(InterruptsTest, IntxThatIsAssertedAlready) {
  set_pin(true);
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(counter_.take(), 1u);
}

TEST_F(InterruptsTest, IntxMaskByTheClient) {
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(client_.set(kBool | kMask, kIntx, 0, 1, {}, {0}), 0);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u) << "0 masks nothing";
  set_pin(false);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(client_.set(kBool | kMask, kIntx, 0, 1, {}, {1}), 0);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 0u);
  EXPECT_EQ(client_.set(kBool | kUnmask, kIntx, 0, 1, {}, {0}), 0);
  EXPECT_EQ(counter_.take(), 0u);
  EXPECT_EQ(client_.set(kBool | kUnmask, kIntx, 0, 1, {}, {1}), 0);
  EXPECT_EQ(counter_.take(), 1u);
  EXPECT_EQ(client_.set(kEventfd | kMask, kIntx, 0, 1, {counter_.get()}), -ENOTTY);
  EXPECT_EQ(client_.set(kNone | kMask, kIntx, 0, 0), -EINVAL);
  EXPECT_EQ(client_.set(kNone | kUnmask, kIntx, 1, 1), -EINVAL);
}

TEST_F(InterruptsTest, IntxTriggerByTheClientMasksNothing) {
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(client_.trigger(kIntx), 0);
  EXPECT_EQ(client_.trigger(kIntx), 0);
  EXPECT_EQ(client_.set(kBool | kTrigger, kIntx, 0, 1, {}, {0}), 0);
  EXPECT_EQ(client_.set(kBool | kTrigger, kIntx, 0, 1, {}, {2}), 0);
  EXPECT_EQ(counter_.take(), 3u);
  interrupts_.set_intx_disabled(true);
  EXPECT_EQ(client_.trigger(kIntx), 0);
  EXPECT_EQ(counter_.take(), 0u);
}

TEST_F(InterruptsTest, IntxWithoutEventfd) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {-1}), 0) << "enabled all the same";
  EXPECT_EQ(client_.enable(kMsi, counter_), -EINVAL);
  EXPECT_EQ(client_.trigger(kIntx), 0) << "nobody to tell";
  EXPECT_EQ(client_.enable(kIntx, counter_), 0);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kIntx, 0, 1, {-1}), 0);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(counter_.take(), 0u);
  EXPECT_EQ(client_.disable(kIntx), 0);
  EXPECT_EQ(client_.enable(kMsi, counter_), 0);
}

TEST_F(InterruptsTest, IntxDisabledInCommand) {
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  interrupts_.set_intx_disabled(true);
  set_pin(true);
  EXPECT_EQ(client_.unmask(), 0);
  EXPECT_EQ(counter_.take(), 0u) << "unmask does not help";
  interrupts_.set_intx_disabled(false);
  EXPECT_EQ(counter_.take(), 1u);
  ASSERT_EQ(client_.disable(kIntx), 0);
  interrupts_.set_intx_disabled(true);
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(counter_.take(), 0u) << "enabled masked";
  interrupts_.set_intx_disabled(false);
  EXPECT_EQ(counter_.take(), 1u);
}

TEST_F(InterruptsTest, IntxUnmaskEventfd) {
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  const Counter resample;
  ASSERT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {resample.get()}), 0);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {resample.get()}), -EBUSY);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u);
  ASSERT_EQ(eventfd_write(resample.get(), 1), 0);
  // The answer comes from another thread.
  eventfd_t count = 0;
  const Fd blocking(dup(counter_.get()));
  for (int i = 0; i < 1000 && eventfd_read(blocking.get(), &count) != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(resample.take(), 0u) << "consumed";
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {-1}), 0);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {-1}), 0) << "none is fine, too";
  ASSERT_EQ(eventfd_write(resample.get(), 1), 0);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {resample.get()}), 0);
  EXPECT_EQ(counter_.take(), 1u) << "a count that is there unmasks at once";
  EXPECT_EQ(client_.disable(kIntx), 0);
  EXPECT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(client_.set(kEventfd | kUnmask, kIntx, 0, 1, {resample.get()}), 0) << "was detached";
}

// --- MSI, MSI-X

class MessagesTest : public InterruptsTest, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  const std::uint32_t index_ = GetParam();
  std::vector<std::int32_t> fds(unsigned count) {
    std::vector<std::int32_t> list;
    for (unsigned i = 0; i < count; ++i) list.push_back(counters_[i].get());
    return list;
  }
  pci::InterruptMode hardware() const {
    return index_ == kMsi ? pci::InterruptMode::msi : pci::InterruptMode::msix;
  }
};

TEST_P(MessagesTest, EnableDeliverDisable) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 4, fds(4)), 0);
  EXPECT_EQ(mode(), hardware());
  for (unsigned i = 0; i < 4; ++i) raise(i);
  raise(3);
  EXPECT_EQ(counters_[0].take(), 1u);
  EXPECT_EQ(counters_[3].take(), 2u);
  EXPECT_EQ(client_.disable(index_), 0);
  EXPECT_NE(mode(), hardware());
  raise(0);
  EXPECT_EQ(counters_[0].take(), 0u);
  EXPECT_EQ(client_.disable(index_), -EINVAL);
}

TEST_P(MessagesTest, TriggerByTheClient) {
  EXPECT_EQ(client_.trigger(index_), -EINVAL) << "not active";
  ASSERT_EQ(
      client_.set(kEventfd | kTrigger, index_, 0, 3, {counters_[0].get(), -1, counters_[2].get()}),
      0);
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 3), 0) << "empty ones are passed over";
  EXPECT_EQ(client_.set(kBool | kTrigger, index_, 0, 3, {}, {0, 1, 1}), 0);
  EXPECT_EQ(counters_[0].take(), 1u);
  EXPECT_EQ(counters_[2].take(), 2u);
}

TEST_P(MessagesTest, TooManyVectorsGiveThePossibleNumber) {
  const auto most = static_cast<int>(function_->vectors(hardware()));
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 100, std::vector<std::int32_t>(100, -1)),
            most);
  EXPECT_EQ(client_.trigger(index_), -EINVAL) << "and nothing is enabled";
}

TEST_P(MessagesTest, NoVectors) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 0), -ERANGE);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 2, 0), 0) << "allocates two";
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 0), 0) << "active: nothing to do";
  EXPECT_EQ(mode(), hardware());
}

TEST_P(MessagesTest, BadDescriptorEnablesNothing) {
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 2, {counters_[0].get(), kNotOpen}), -EBADF);
  EXPECT_EQ(
      client_.set(kEventfd | kTrigger, index_, 0, 2, {counters_[0].get(), not_an_eventfd_.get()}),
      -EINVAL);
  EXPECT_EQ(client_.trigger(index_), -EINVAL);
  EXPECT_NE(mode(), hardware());
  EXPECT_EQ(client_.enable(kIntx, counter_), 0) << "no type is active";
}

TEST_P(MessagesTest, BadDescriptorWhileActiveRemovesWhatTheCallTouched) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 4, fds(4)), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 1, 3,
                        {counters_[5].get(), kNotOpen, counters_[6].get()}),
            -EBADF);
  for (unsigned i = 0; i < 4; ++i) raise(i);
  EXPECT_EQ(counters_[0].take(), 1u);
  EXPECT_EQ(counters_[1].take() + counters_[5].take(), 0u);
  EXPECT_EQ(counters_[2].take(), 0u);
  EXPECT_EQ(counters_[3].take(), 1u) << "not reached";
  EXPECT_EQ(mode(), hardware()) << "still active";
}

TEST_P(MessagesTest, RemoveAndReplaceVectors) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 3, fds(3)), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 1, 2, {-1, counters_[7].get()}), 0);
  for (unsigned i = 0; i < 3; ++i) raise(i);
  EXPECT_EQ(counters_[0].take(), 1u);
  EXPECT_EQ(counters_[1].take(), 0u);
  EXPECT_EQ(counters_[2].take(), 0u);
  EXPECT_EQ(counters_[7].take(), 1u);
}

TEST_P(MessagesTest, ExcludeOtherTypes) {
  ASSERT_EQ(client_.enable(index_, counter_), 0);
  EXPECT_EQ(client_.enable(kIntx, counter_), -EINVAL);
  EXPECT_EQ(client_.trigger(kIntx), -EINVAL);
  EXPECT_EQ(client_.enable(index_ == kMsi ? kMsix : kMsi, counter_), -EINVAL);
  EXPECT_EQ(client_.disable(index_ == kMsi ? kMsix : kMsi), -EINVAL);
  EXPECT_EQ(client_.enable(kErr, counter_), 0);
  ASSERT_EQ(client_.disable(index_), 0);
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  EXPECT_EQ(client_.enable(index_, counter_), -EINVAL);
}

TEST_P(MessagesTest, RestoredAfterTheHardwareHasLostThem) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 3, fds(3)), 0);
  function_->reset();
  function_->config_set(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
  raise(2);
  EXPECT_EQ(counters_[2].take(), 0u);
  interrupts_.restore();
  raise(2);
  EXPECT_EQ(counters_[2].take(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Both, MessagesTest, ::testing::Values(kMsi, kMsix));

TEST_F(InterruptsTest, MsiVectorsComeAllAtOnce) {
  ASSERT_EQ(client_.set(kEventfd | kTrigger, kMsi, 0, 2, {counters_[0].get(), counters_[1].get()}),
            0);
  EXPECT_EQ(interrupts_.msi_vectors(), 2u);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 3, 1, {counters_[3].get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsi, 3, 1, {-1}), 0) << "removing is always fine";
  raise(0);
  EXPECT_EQ(counters_[0].take(), 1u);
}

TEST_F(InterruptsTest, MsixVectorsComeWhenTheyAreWanted) {
  ASSERT_EQ(client_.enable(kMsix, counter_), 0);
  EXPECT_EQ(interrupts_.msi_vectors(), 0u) << "those are of MSI";
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsix, 7, 1, {counters_[7].get()}), 0);
  raise(7);
  EXPECT_EQ(counters_[7].take(), 1u);
}

TEST_F(InterruptsTest, MsixMessageWithoutEventfdIsPending) {
  ASSERT_EQ(client_.enable(kMsix, counter_), 0);
  raise(5);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, kMsix, 5, 1, {counters_[5].get()}), 0);
  EXPECT_EQ(counters_[5].take(), 1u);
}

// --- Errors and requests

class SingleTest : public InterruptsTest, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  const std::uint32_t index_ = GetParam();
};

TEST_P(SingleTest, Rules) {
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 1), -EINVAL) << "none set";
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 0), -EINVAL) << "none set";
  EXPECT_EQ(client_.set(kBool | kTrigger, index_, 0, 1, {}, {1}), 0) << "silent";
  EXPECT_EQ(client_.set(kBool | kTrigger, index_, 0, 0), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 0), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 1, {-1}), 0);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 1, {-2}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 1, {kNotOpen}), -EBADF);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 1, {not_an_eventfd_.get()}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 0, 2, {-1, -1}), -EINVAL);
  EXPECT_EQ(client_.set(kEventfd | kTrigger, index_, 1, 1, {-1}), -EINVAL);
  ASSERT_EQ(client_.enable(index_, counter_), 0);
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 1), 0);
  EXPECT_EQ(client_.set(kBool | kTrigger, index_, 0, 1, {}, {1}), 0);
  EXPECT_EQ(client_.set(kBool | kTrigger, index_, 0, 1, {}, {0}), 0);
  EXPECT_EQ(counter_.take(), 2u);
  EXPECT_EQ(client_.enable(index_, counters_[1]), 0) << "replaced";
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 1), 0);
  EXPECT_EQ(counters_[1].take(), 1u);
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 0), 0);
  EXPECT_EQ(client_.set(kNone | kTrigger, index_, 0, 0), -EINVAL) << "gone";
}

INSTANTIATE_TEST_SUITE_P(Both, SingleTest, ::testing::Values(kErr, kReq));

TEST_F(InterruptsTest, RequestTellsTheClient) {
  EXPECT_FALSE(interrupts_.request());
  ASSERT_EQ(client_.enable(kReq, counter_), 0);
  EXPECT_TRUE(interrupts_.request());
  EXPECT_EQ(counter_.take(), 1u);
}

TEST_F(InterruptsTest, CloseTakesEverythingBack) {
  interrupts_.set_intx_disabled(true);
  ASSERT_EQ(client_.enable(kMsix, counter_), 0);
  ASSERT_EQ(client_.enable(kReq, counters_[1]), 0);
  ASSERT_EQ(client_.enable(kErr, counters_[2]), 0);
  interrupts_.close();
  raise(0);
  EXPECT_FALSE(interrupts_.request());
  EXPECT_EQ(counter_.take(), 0u);
  interrupts_.open();
  EXPECT_EQ(client_.disable(kMsix), -EINVAL);
  ASSERT_EQ(client_.enable(kIntx, counter_), 0);
  set_pin(true);
  EXPECT_EQ(counter_.take(), 1u) << "DisINTx is forgotten";
}

}  // namespace
}  // namespace uvfio::vfio_pci
