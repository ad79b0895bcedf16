#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <limits>
#include <thread>

#include "memory/client_for_test.h"
#include "memory/process.h"

namespace uvfio::memory {
namespace {

using Inside = TestClient::Inside;
constexpr pid_t kNobody = std::numeric_limits<pid_t>::max();

TEST(CopyThread, BothWays) {
  const TestClient client([](const Inside& inside) {
    auto* const pages = static_cast<std::byte*>(
        mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    munmap(pages + kPageSize, kPageSize);
    pages[0] = std::byte{1};
    inside.send(pages);
    inside.wait();
    inside.send(std::to_integer<std::uint64_t>(pages[1]));
    mprotect(pages, kPageSize, PROT_READ);
    inside.send(1);
  });
  const std::uint64_t address = client.receive();
  std::array<std::byte, 2> data{};
  ASSERT_TRUE(copy_from_thread(client.pid(), address, data));
  EXPECT_EQ(data[0], std::byte{1});
  data[1] = std::byte{9};
  ASSERT_TRUE(copy_to_thread(client.pid(), address, data));
  client.go();
  EXPECT_EQ(client.receive(), 9u);

  EXPECT_EQ(copy_from_thread(client.pid(), address + kPageSize - 1, data).error(), Errno{EFAULT});
  EXPECT_EQ(copy_to_thread(client.pid(), address + kPageSize - 1, data).error(), Errno{EFAULT});
  EXPECT_EQ(copy_from_thread(client.pid(), 0, data).error(), Errno{EFAULT});
  EXPECT_EQ(copy_from_thread(client.pid(), UINT64_MAX, data).error(), Errno{EFAULT});
  EXPECT_EQ(copy_from_thread(client.pid(), std::uint64_t{1} << 63, data).error(), Errno{EFAULT});
  EXPECT_TRUE(copy_from_thread(client.pid(), 0, {}));
  ASSERT_EQ(client.receive(), 1u);
  EXPECT_EQ(copy_to_thread(client.pid(), address, data).error(), Errno{EFAULT});
}

TEST(CopyThread, NobodyIsESRCH) {
  std::array<std::byte, 2> data{};
  EXPECT_EQ(copy_from_thread(kNobody, 4096, data).error(), Errno{ESRCH});
  EXPECT_EQ(copy_to_thread(0, 4096, data).error(), Errno{ESRCH});
}

TEST(DuplicateFromThread, GivesTheSameFile) {
  int from_client[2];
  ASSERT_EQ(pipe(from_client), 0);
  const TestClient client([&](const Inside& inside) {
    inside.send(static_cast<std::uint64_t>(memfd_create("duplicated", 0)));
    std::thread other([&] {
      inside.send(static_cast<std::uint64_t>(gettid()));
      inside.wait();
    });
    other.join();
  });
  const int fd = static_cast<int>(client.receive());
  const auto tid = static_cast<pid_t>(client.receive());
  for (const pid_t who : {client.pid(), tid}) {
    const auto copy = duplicate_from_thread(who, fd);
    ASSERT_TRUE(copy) << value(copy.error());
    EXPECT_EQ(fcntl(copy->get(), F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(ftruncate(copy->get(), 5), 0);
    struct stat status {};
    const std::string path = "/proc/" + std::to_string(client.pid()) + "/fd/" + std::to_string(fd);
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_size, 5);
  }
  EXPECT_EQ(duplicate_from_thread(client.pid(), 999).error(), Errno{EBADF});
  EXPECT_EQ(duplicate_from_thread(client.pid(), -1).error(), Errno{EBADF});
  EXPECT_EQ(duplicate_from_thread(kNobody, 0).error(), Errno{ESRCH});
  EXPECT_EQ(duplicate_from_thread(0, 0).error(), Errno{ESRCH});
  close(from_client[0]);
  close(from_client[1]);
}

TEST(CanLockMemory, TakesTheCapabilityInTheInitialNamespace) {
  EXPECT_FALSE(thread_can_lock_memory(0));
  EXPECT_FALSE(thread_can_lock_memory(kNobody));
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  struct stat own_namespace {};
  ASSERT_EQ(stat("/proc/self/ns/user", &own_namespace), 0);
  EXPECT_EQ(thread_can_lock_memory(getpid()), own_namespace.st_ino == 0xEFFFFFFD);

  const TestClient nobody([](const Inside& inside) {
    if (setuid(65534) != 0) _exit(1);
    inside.send(1);
  });
  if (nobody.receive() == 1) {
    EXPECT_FALSE(thread_can_lock_memory(nobody.pid()));
  }

  const TestClient contained([](const Inside& inside) {
    inside.send(unshare(CLONE_NEWUSER) == 0 ? 1 : 2);  // which gives all capabilities, inside
  });
  if (contained.receive() == 1) {
    EXPECT_FALSE(thread_can_lock_memory(contained.pid()));
  }
}

}  // namespace
}  // namespace uvfio::memory
