#include "devices/edu/edu.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

#include "pci/function.h"
#include "pci/layout.h"

namespace uvfio::edu {
namespace {

// Waits for interrupts.
class Sink final : public pci::InterruptSink {
 public:
  void message(unsigned vector) override {
    EXPECT_EQ(vector, 0u);
    const std::scoped_lock lock(mutex_);
    ++messages_;
    changed_.notify_all();
  }
  void intx(bool asserted) override {
    const std::scoped_lock lock(mutex_);
    asserted_ = asserted;
    changed_.notify_all();
  }
  void wait_for_message() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return messages_ != 0; });
    --messages_;
  }
  void wait_for_pin(bool asserted) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return asserted_ == asserted; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned messages_ = 0;
  bool asserted_ = false;
};

class EduTest : public testing::Test {
 protected:
  EduTest() : function_(std::move(*pci::Function::create(std::make_unique<Edu>()))) {
    function_->set_interrupt_sink(&sink_);
    function_->config_set(4, 2, pci::kCommandMemory | pci::kCommandMaster);
  }
  ~EduTest() override { function_->set_interrupt_sink(nullptr); }
  std::uint64_t read(std::uint64_t offset, std::size_t width = 4) {
    std::uint64_t value = 0;
    EXPECT_TRUE(
        function_->bar_read(0, offset, std::as_writable_bytes(std::span(&value, 1)).first(width)));
    return value;
  }
  void write(std::uint64_t offset, std::uint64_t value, std::size_t width = 4) {
    EXPECT_TRUE(function_->bar_write(0, offset, std::as_bytes(std::span(&value, 1)).first(width)));
  }
  // The factorial of `n`, told by an interrupt.
  std::uint64_t factorial(std::uint32_t n) {
    write(kStatus, kStatusInterrupt);
    write(kFactorial, n);
    sink_.wait_for_pin(true);
    EXPECT_EQ(read(kInterruptStatus), kInterruptFactorial);
    EXPECT_EQ(read(kStatus), kStatusInterrupt) << "no longer computing";
    write(kInterruptAcknowledge, kInterruptFactorial);
    sink_.wait_for_pin(false);
    return read(kFactorial);
  }

  Sink sink_;
  std::unique_ptr<pci::Function> function_;
};

TEST_F(EduTest, IdentifiesItself) {
  EXPECT_EQ(function_->config_get(0, 4), 0x11e81234u);
  EXPECT_EQ(read(kIdentification), 0x010000edu);
  write(kLiveness, 0x12345678);
  EXPECT_EQ(read(kLiveness), 0xedcba987u);
}

TEST_F(EduTest, TakesTheWidthsOfItsSpecification) {
  EXPECT_EQ(read(kIdentification, 2), 0u);
  EXPECT_EQ(read(kIdentification, 8), ~std::uint64_t{0});
  write(kLiveness, 1, 2);
  EXPECT_EQ(read(kLiveness), 0u);
  write(kDmaSource, 0x1122334455667788, 8);
  EXPECT_EQ(read(kDmaSource, 8), 0x1122334455667788u);
}

TEST_F(EduTest, ComputesFactorials) {
  EXPECT_EQ(factorial(0), 1u);
  EXPECT_EQ(factorial(5), 120u);
  EXPECT_EQ(factorial(13), 1932053504u) << "modulo 2^32";
  EXPECT_EQ(factorial(33), 2147483648u);
  EXPECT_EQ(factorial(34), 0u);
  EXPECT_EQ(factorial(0xffffffff), 0u);
}

TEST_F(EduTest, RaisesInterruptsOnDemand) {
  write(kInterruptRaise, 0x12);
  sink_.wait_for_pin(true);
  EXPECT_EQ(read(kInterruptStatus), 0x12u);
  write(kInterruptAcknowledge, 0x2);
  EXPECT_TRUE(function_->intx_asserted());
  write(kInterruptAcknowledge, 0x10);
  sink_.wait_for_pin(false);
  ASSERT_TRUE(function_->enable_messages(pci::InterruptMode::msi, 1));
  write(kInterruptRaise, 1);
  sink_.wait_for_message();
}

TEST_F(EduTest, DmaThatFailsEndsLikeAnyOther) {
  write(kDmaSource, 0, 8);
  write(kDmaDestination, kBuffer, 8);
  write(kDmaCount, kBufferSize + 1, 8);
  write(kDmaCommand, kDmaStart | kDmaInterrupt, 8);
  sink_.wait_for_pin(true);
  EXPECT_EQ(read(kDmaCommand), kDmaInterrupt) << "start has gone";
  EXPECT_EQ(read(kInterruptStatus), kInterruptDma);
  write(kInterruptAcknowledge, kInterruptDma);
  // Nobody has the function open.
  write(kDmaCount, 16, 8);
  write(kDmaCommand, kDmaStart | kDmaInterrupt, 8);
  sink_.wait_for_pin(true);
}

TEST_F(EduTest, ResetClearsRegisters) {
  write(kLiveness, 1);
  write(kInterruptRaise, 1);
  write(kFactorial, 10);
  function_->hot_reset();
  EXPECT_EQ(read(kLiveness), 0u);
  EXPECT_EQ(read(kInterruptStatus), 0u);
  EXPECT_EQ(read(kFactorial), 0u);
  EXPECT_FALSE(function_->intx_asserted());
  EXPECT_EQ(factorial(5), 120u);
}

}  // namespace
}  // namespace uvfio::edu
