#include "launcher/notify_filter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace uvfio::launcher {
namespace {

// In a child, because a filter cannot be taken off again. A thread of it plays the supervisor.
int use_filter() {
  Fd listener;
  std::thread supervisor;
  {
    auto loaded = load_notify_filter();
    if (!loaded) {
      std::fprintf(stderr, "%s\n", loaded.error().c_str());
      return 1;
    }
    listener = std::move(*loaded);
  }
  supervisor = std::thread([&] {
    seccomp_notif notification{};
    if (ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0) return;
    seccomp_notif_resp response{};
    response.id = notification.id;
    response.val = static_cast<int>(notification.data.args[2]);
    ioctl(listener.get(), SECCOMP_IOCTL_NOTIF_SEND, &response);
  });
  // Other ioctls are not asked about: this would hang.
  if (ioctl(listener.get(), VFIO_GROUP_GET_STATUS, 0) != -1) return 2;
  // The upper half of the command does not count, for the kernel as for the filter.
  const long result =
      syscall(SYS_ioctl, -1, (std::uint64_t{1} << 32) | VFIO_GROUP_GET_DEVICE_FD, 42);
  supervisor.join();
  if (result != 42) return 3;
  if (load_notify_filter().error().find("listener") == std::string::npos) return 4;
  return 0;
}

TEST(NotifyFilter, TakesOnlyTheIoctlsThatReturnADescriptor) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(use_filter());
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace uvfio::launcher
