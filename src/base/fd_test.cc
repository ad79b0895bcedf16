#include "uvfio/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/event_signal.h"

namespace uvfio {
namespace {

TEST(Fd, ClosesWhatItOwnsOnce) {
  const int raw = open("/dev/null", O_RDONLY);
  {
    Fd first(raw);
    Fd second = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): the moved-from state is what is tested
    EXPECT_EQ(second.get(), raw);
    EXPECT_GE(fcntl(raw, F_GETFD), 0);
  }
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
}

TEST(EventFd, RefusesOtherFiles) {
  EXPECT_EQ(EventFd::from(Fd(open("/dev/null", O_RDWR))).error(), Errno{EINVAL});
  EXPECT_EQ(EventFd::from(Fd()).error(), Errno{EINVAL});
}

TEST(EventFd, CountsSignals) {
  const auto event = EventFd::create();
  ASSERT_TRUE(event);
  event->signal();
  event->signal();
  eventfd_t count = 0;
  ASSERT_EQ(eventfd_read(event->get(), &count), 0);
  EXPECT_EQ(count, 2u);
}

TEST(EventFd, NeverBlocksOnAFullCounter) {
  const int raw = eventfd(0, 0);  // blocking, as a client may choose
  ASSERT_EQ(eventfd_write(raw, UINT64_MAX - 1), 0);
  const auto event = EventFd::from(Fd(raw));
  ASSERT_TRUE(event);
  event->signal();  // would hang
  event->signal();
  eventfd_t count = 0;
  ASSERT_EQ(eventfd_read(raw, &count), 0);
  EXPECT_GE(count, UINT64_MAX - 1);
}

// It does not look at the counter first, so a client cannot fill it in between: that one step does
// it all shows in an overflow, which no write(2) can cause.
TEST(EventFd, IsSignalledInOneStep) {
  const Fd raw(eventfd(0, 0));
  ASSERT_EQ(eventfd_write(raw.get(), UINT64_MAX - 1), 0);
  if (!signal_without_waiting(raw.get())) GTEST_SKIP() << "no Linux AIO here";
  pollfd ready{.fd = raw.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&ready, 1, 0), 1);
  EXPECT_NE(ready.revents & POLLERR, 0);
  EXPECT_TRUE(signal_without_waiting(raw.get()));
}

TEST(EventFd, CountsTheSignalsOfManyThreads) {
  const auto event = EventFd::create();
  ASSERT_TRUE(event);
  constexpr int kThreads = 8;
  constexpr int kSignals = 5'000;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        for (int signal = 0; signal < kSignals; ++signal) event->signal();
      });
    }
  }
  eventfd_t count = 0;
  ASSERT_EQ(eventfd_read(event->get(), &count), 0);
  EXPECT_EQ(count, eventfd_t{kThreads} * kSignals);
}

// The context of asynchronous I/O is not inherited.
TEST(EventFd, SignalsAfterAFork) {
  const auto event = EventFd::create();
  ASSERT_TRUE(event);
  event->signal();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    event->signal();
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  eventfd_t count = 0;
  ASSERT_EQ(eventfd_read(event->get(), &count), 0);
  EXPECT_EQ(count, 2u);
}

TEST(EventFd, ConsumesWithoutBlocking) {
  const EventFd event =
      *EventFd::from(Fd(eventfd(0, EFD_CLOEXEC)));  // blocking, as a client may choose
  EXPECT_FALSE(event.consume());
  event.signal();
  event.signal();
  EXPECT_TRUE(event.consume());
  EXPECT_FALSE(event.consume());
}

}  // namespace
}  // namespace uvfio
