#include "vfio/virqfd.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <semaphore>

namespace uvfio::vfio {
namespace {

using namespace std::chrono_literals;

// The client's end of an eventfd, and a handler that can be waited for.
class VirqfdTest : public ::testing::Test {
 protected:
  explicit VirqfdTest(int flags = EFD_CLOEXEC) : fd_(eventfd(0, flags)) {}

  EventFd event() { return *EventFd::from(*fd_.duplicate()); }
  Status enable() {
    return virqfd_.enable(event(), [this] {
      ++calls_;
      called_.release();
    });
  }
  void signal(eventfd_t count = 1) { ASSERT_EQ(eventfd_write(fd_.get(), count), 0); }
  bool wait() { return called_.try_acquire_for(10s); }

  Fd fd_;
  std::atomic<int> calls_ = 0;
  std::counting_semaphore<> called_{0};
  Virqfd virqfd_;
};

TEST_F(VirqfdTest, CallsForEachSignalAndTakesTheCount) {
  ASSERT_TRUE(enable());
  for (int i = 1; i <= 3; ++i) {
    signal(5);
    ASSERT_TRUE(wait());
    EXPECT_EQ(calls_, i);
  }
  EXPECT_FALSE(event().consume()) << "consumed";
}

TEST_F(VirqfdTest, CountThatIsThereTriggersAtOnce) {
  signal(3);
  ASSERT_TRUE(enable());
  EXPECT_EQ(calls_, 1) << "before enable() returned";
  EXPECT_TRUE(wait());
  EXPECT_EQ(event().count(), 3u) << "not taken";
  signal(2);
  EXPECT_TRUE(wait());
  EXPECT_EQ(calls_, 2);
  EXPECT_FALSE(event().consume()) << "with the next signal";
}

TEST_F(VirqfdTest, CountThatTheClientTakesItself) {
  signal(3);
  ASSERT_TRUE(enable());
  EXPECT_TRUE(wait());
  EXPECT_TRUE(event().consume());
  for (int i = 0; i < 3; ++i) {
    signal(4);
    EXPECT_TRUE(wait());
  }
  EXPECT_EQ(calls_, 4);
}

TEST_F(VirqfdTest, OneAtATime) {
  ASSERT_TRUE(enable());
  EXPECT_EQ(enable(), fail(EBUSY));
  virqfd_.disable();
  ASSERT_TRUE(enable());
  signal();
  EXPECT_TRUE(wait());
}

TEST_F(VirqfdTest, NothingAfterDisable) {
  ASSERT_TRUE(enable());
  virqfd_.disable();
  signal();
  // Another one, watched by the same thread, has had its turn after the first's.
  Virqfd other;
  std::promise<void> called;
  const EventFd event = *EventFd::create();
  ASSERT_TRUE(other.enable(*EventFd::from(Fd(dup(event.get()))), [&] { called.set_value(); }));
  event.signal();
  ASSERT_EQ(called.get_future().wait_for(10s), std::future_status::ready);
  EXPECT_EQ(calls_, 0);
  EXPECT_TRUE(this->event().consume()) << "the signal stays with the client";
  virqfd_.disable();
}

TEST_F(VirqfdTest, DisableWaitsForTheHandler) {
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> left = false;
  ASSERT_TRUE(virqfd_.enable(event(), [&] {
    entered.set_value();
    leave.get_future().wait();
    left = true;
  }));
  signal();
  entered.get_future().wait();
  auto disabled = std::async(std::launch::async, [&] {
    virqfd_.disable();
    return left.load();
  });
  EXPECT_EQ(disabled.wait_for(20ms), std::future_status::timeout);
  leave.set_value();
  EXPECT_TRUE(disabled.get());
}

// A semaphore with a huge count stays readable after every read.
class HostileVirqfdTest : public VirqfdTest {
 protected:
  HostileVirqfdTest() : VirqfdTest(EFD_CLOEXEC | EFD_SEMAPHORE) {}
};

TEST_F(HostileVirqfdTest, SemaphoreDoesNotKeepTheThreadBusy) {
  ASSERT_TRUE(enable());
  signal(0xffff'ffff'ffff'0000);
  ASSERT_TRUE(wait());
  Virqfd other;
  std::counting_semaphore<> called{0};
  const EventFd event = *EventFd::create();
  ASSERT_TRUE(other.enable(*EventFd::from(Fd(dup(event.get()))), [&] { called.release(); }));
  event.signal();
  ASSERT_TRUE(called.try_acquire_for(10s));
  EXPECT_EQ(calls_, 1) << "one signal, one call";
}

}  // namespace
}  // namespace uvfio::vfio
