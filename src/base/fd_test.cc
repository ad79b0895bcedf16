#include "uvfio/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

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
  eventfd_t count = 0;
  ASSERT_EQ(eventfd_read(raw, &count), 0);
  EXPECT_EQ(count, UINT64_MAX - 1);
}

TEST(EventFd, ConsumesWithoutBlocking) {
  const EventFd event = *EventFd::from(Fd(eventfd(0, EFD_CLOEXEC)));  // blocking, as a client may choose
  EXPECT_FALSE(event.consume());
  event.signal();
  event.signal();
  EXPECT_TRUE(event.consume());
  EXPECT_FALSE(event.consume());
}

}  // namespace
}  // namespace uvfio
