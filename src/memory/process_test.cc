#include "memory/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "memory/client_for_test.h"

namespace uvfio::memory {
namespace {

using Inside = TestClient::Inside;
constexpr std::uint64_t kSize = 16 * kPageSize;

std::byte* map(std::uint64_t size, int protection, int flags, int fd = -1, off_t offset = 0) {
  void* const mapped = mmap(nullptr, size, protection, flags, fd, offset);
  if (mapped == MAP_FAILED) _exit(1);
  return static_cast<std::byte*>(mapped);
}

std::byte* map_private(std::uint64_t size) {
  return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}

// Does the kernel let us see the files behind mappings (CAP_CHECKPOINT_RESTORE)?
bool can_share() {
  const TestClient client([](const Inside& inside) {
    inside.send(map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  });
  const std::uint64_t begin = client.receive();
  std::array<char, 96> path;
  std::snprintf(path.data(), path.size(), "/proc/%d/map_files/%lx-%lx", client.pid(), begin,
                begin + kPageSize);
  return static_cast<bool>(Fd(open(path.data(), O_PATH | O_CLOEXEC)));
}
#define SKIP_UNLESS_SHARING() \
  if (!can_share()) GTEST_SKIP() << "needs CAP_CHECKPOINT_RESTORE"

std::size_t own_mappings_named(std::string_view name) {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(name) != std::string::npos;
  return count;
}

TEST(ProcessMemory, PrivateMemoryIsCopied) {
  const TestClient client([](const Inside& inside) {
    std::byte* const memory = map_private(kSize);
    std::memset(memory, 0x5a, kSize);
    inside.send(memory);
    inside.wait();
    inside.send(std::to_integer<std::uint64_t>(memory[kPageSize]));
  });
  ProcessTable table;
  const auto space = table.acquire(client.pid());
  ASSERT_TRUE(space);
  EXPECT_TRUE((*space)->alive());
  const std::uint64_t address = client.receive();

  std::vector<std::byte> data(kSize);
  ASSERT_TRUE((*space)->read(address, data));
  EXPECT_EQ(data, std::vector<std::byte>(kSize, std::byte{0x5a}));
  const std::array<std::byte, 1> one{std::byte{0x77}};
  ASSERT_TRUE((*space)->write(address + kPageSize, one));
  client.go();
  EXPECT_EQ(client.receive(), 0x77u);

  EXPECT_TRUE((*space)->check(address, kSize, true));
  EXPECT_EQ((*space)->view(address, kSize, true).error(), Errno{EOPNOTSUPP});
}

TEST(ProcessMemory, HolesAndEnds) {
  const TestClient client([](const Inside& inside) {
    std::byte* const memory = map_private(4 * kPageSize);
    munmap(memory + 2 * kPageSize, kPageSize);
    inside.send(memory);
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  std::vector<std::byte> data(2 * kPageSize);
  EXPECT_TRUE(space->read(address, data));
  EXPECT_EQ(space->read(address + 1, data).error(), Errno{EFAULT});
  EXPECT_EQ(space->write(address + kPageSize, data).error(), Errno{EFAULT});
  EXPECT_EQ(space->check(address, 3 * kPageSize, false).error(), Errno{EFAULT});
  EXPECT_EQ(space->view(address, 3 * kPageSize, false).error(), Errno{EFAULT});
  EXPECT_TRUE(space->check(address + 3 * kPageSize, kPageSize, true));

  for (const std::uint64_t bad :
       {std::uint64_t{0}, -kPageSize, UINT64_MAX, std::uint64_t{1} << 63}) {
    EXPECT_EQ(space->read(bad, data).error(), Errno{EFAULT});
    EXPECT_EQ(space->write(bad, data).error(), Errno{EFAULT});
    EXPECT_EQ(space->check(bad, 1, false).error(), Errno{EFAULT});
    EXPECT_EQ(space->view(bad, 1, false).error(), Errno{EFAULT});
  }
  EXPECT_EQ(space->check(address, -address, false).error(), Errno{EFAULT});
  EXPECT_EQ(space->view(address, UINT64_MAX, true).error(), Errno{EFAULT});
  EXPECT_EQ(space->view(address, 0, true).error(), Errno{EFAULT});
  EXPECT_TRUE(space->read(0, {}));
}

TEST(ProcessMemory, ReadOnlyMemoryIsNotWritten) {
  const TestClient client([](const Inside& inside) {
    std::byte* const memory = map_private(2 * kPageSize);
    memory[0] = std::byte{0x11};
    mprotect(memory, kPageSize, PROT_READ);
    mprotect(memory + kPageSize, kPageSize, PROT_NONE);
    inside.send(memory);
    inside.wait();
    inside.send(std::to_integer<std::uint64_t>(memory[0]));
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  std::array<std::byte, 1> one{std::byte{0x22}};
  EXPECT_EQ(space->write(address, one).error(), Errno{EFAULT});
  EXPECT_EQ(space->check(address, 1, true).error(), Errno{EFAULT});
  EXPECT_EQ(space->view(address, 1, true).error(), Errno{EFAULT});
  EXPECT_EQ(space->read(address + kPageSize, one).error(), Errno{EFAULT});
  EXPECT_TRUE(space->read(address, one));
  client.go();
  EXPECT_EQ(client.receive(), 0x11u);
}

TEST(ProcessMemory, ADeadClientIsGone) {
  TestClient client([](const Inside& inside) {
    inside.send(map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  const auto view = space->view(address, kSize, true);
  const pid_t pid = client.pid();
  client.kill();

  EXPECT_FALSE(space->alive());
  std::array<std::byte, 1> one{};
  EXPECT_EQ(space->read(address, one).error(), Errno{ESRCH});
  EXPECT_EQ(space->write(address, one).error(), Errno{ESRCH});
  EXPECT_EQ(space->check(address, 1, false).error(), Errno{ESRCH});
  EXPECT_EQ(space->view(address, 1, false).error(), Errno{ESRCH});
  EXPECT_EQ(table.acquire(pid).error(), Errno{ESRCH});
  if (view) view->host[0] = std::byte{1};  // what is pinned stays
}

// userfaultfd gives a client the say over when a page fault ends; ours must not wait for it.
TEST(ProcessMemory, AClientCannotMakeUsWait) {
  const TestClient client([](const Inside& inside) {
    const auto watcher = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    std::byte* const memory = map_private(kSize);
    uffdio_register range{};
    range.range = {.start = reinterpret_cast<std::uintptr_t>(memory), .len = kSize};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    const bool watched = watcher >= 0 && ioctl(watcher, UFFDIO_API, &api) == 0 &&
                         ioctl(watcher, UFFDIO_REGISTER, &range) == 0;
    inside.send(watched ? memory : nullptr);
  });
  const std::uint64_t address = client.receive();
  if (address == 0) GTEST_SKIP() << "needs userfaultfd";
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  std::array<std::byte, 1> one{};
  EXPECT_EQ(space->read(address, one).error(), Errno{EFAULT});
  EXPECT_EQ(space->write(address, one).error(), Errno{EFAULT});
}

TEST(ProcessMemory, OfAnotherUserIsNotOurs) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const TestClient server([](const Inside& inside) {
    if (setuid(65534) != 0) _exit(1);
    inside.send(1);
    ProcessTable table;
    inside.send(static_cast<std::uint64_t>(value(table.acquire(getppid()).error())));
    inside.send(static_cast<std::uint64_t>(value(duplicate_from_thread(getppid(), 0).error())));
  });
  if (server.receive() == 0) GTEST_SKIP() << "no other user here";
  EXPECT_EQ(server.receive(), std::uint64_t{EACCES});
  EXPECT_EQ(server.receive(), std::uint64_t{EPERM});
}

TEST(ProcessIdentity, ThreadsShareOneObject) {
  const TestClient client([](const Inside& inside) {
    std::thread other([&] {
      inside.send(static_cast<std::uint64_t>(gettid()));
      for (;;) pause();
    });
    other.join();
  });
  ProcessTable table;
  const auto tid = static_cast<pid_t>(client.receive());
  ASSERT_NE(tid, client.pid());
  const auto by_thread = table.acquire(tid);
  ASSERT_TRUE(by_thread);
  EXPECT_EQ(*by_thread, *table.acquire(client.pid()));
  EXPECT_EQ(*by_thread, *table.acquire(tid));
  EXPECT_EQ(thread_group_of(tid), client.pid());
}

// In a client: the calling thread exits, which is the leader; another sends its number and
// `memory`, and stays.
void go_on_without_leader(const Inside& inside, std::byte* memory) {
  std::thread other([&] {
    inside.wait();
    std::ifstream state("/proc/self/stat");  // a zombie, once the leader is through with exiting
    for (std::string text; text.find(") Z ") == std::string::npos;) {
      state.seekg(0);
      std::getline(state, text);
      state.clear();
    }
    inside.send(static_cast<std::uint64_t>(gettid()));
    inside.send(memory);
    for (;;) pause();
  });
  syscall(SYS_exit, 0);
}

TEST(ProcessIdentity, ThreadsGoOnWithoutTheirLeader) {
  const TestClient client([](const Inside& inside) { go_on_without_leader(inside, nullptr); });
  client.go();
  const auto tid = static_cast<pid_t>(client.receive());
  ProcessTable table;
  const auto space = table.acquire(tid);
  ASSERT_TRUE(space);
  EXPECT_TRUE((*space)->alive());
  EXPECT_EQ(*space, *table.acquire(tid));
}

TEST(ProcessIdentity, AnExecIsANewObject) {
  const TestClient client([](const Inside& inside) {
    inside.send(1);
    inside.wait();
    inside.become_echo();
  });
  ProcessTable table;
  ASSERT_EQ(client.receive(), 1u);
  const auto before = *table.acquire(client.pid());
  EXPECT_EQ(before, *table.acquire(client.pid()));
  client.go();
  ASSERT_TRUE(client.echoes());
  EXPECT_FALSE(before->alive());
  const auto after = table.acquire(client.pid());
  ASSERT_TRUE(after);
  EXPECT_NE(before, *after);
  EXPECT_TRUE((*after)->alive());
  EXPECT_EQ(*after, *table.acquire(client.pid()));
}

// Its memory lives on in somebody else, so that aliveness alone would give the wrong one.
TEST(ProcessIdentity, AnExecIsANewObjectAlsoWhenTheOldMemoryLivesOn) {
  const TestClient client([](const Inside& inside) {
    // A child that runs on our memory, and stops us, until it execs.
    const auto sibling = [](void* argument) {
      const auto& mine = *static_cast<const Inside*>(argument);
      mine.send(static_cast<std::uint64_t>(syscall(SYS_getpid)));
      mine.wait();
      mine.become_echo();
      return 1;
    };
    constexpr std::uint64_t stack_size = 1 << 20;
    clone(sibling, map_private(stack_size) + stack_size, CLONE_VM | CLONE_VFORK | SIGCHLD,
          const_cast<Inside*>(&inside));
    for (;;) pause();
  });
  ProcessTable table;
  const auto sibling = static_cast<pid_t>(client.receive());
  const auto before = *table.acquire(sibling);
  EXPECT_EQ(before, *table.acquire(sibling));
  client.go();
  ASSERT_TRUE(client.echoes());
  EXPECT_TRUE(before->alive());
  const auto after = table.acquire(sibling);
  ASSERT_TRUE(after);
  EXPECT_NE(before, *after);
  kill(sibling, SIGKILL);
}

TEST(ProcessIdentity, NobodyIsESRCH) {
  ProcessTable table;
  EXPECT_EQ(table.acquire(0).error(), Errno{ESRCH});
  EXPECT_EQ(table.acquire(-1).error(), Errno{ESRCH});
  EXPECT_EQ(table.acquire(std::numeric_limits<pid_t>::max()).error(), Errno{ESRCH});
}

TEST(ProcessIdentity, AnExitedProcessIsESRCH) {
  const pid_t zombie = fork();
  if (zombie == 0) _exit(0);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT), 0);
  ProcessTable table;
  // To those who may not see everything, a process without memory is like one that hides it.
  EXPECT_EQ(table.acquire(zombie).error(), Errno{geteuid() == 0 ? ESRCH : EACCES});
  waitpid(zombie, nullptr, 0);
}

TEST(ProcessIdentity, ThreadsOfTheServerAgree) {
  const TestClient client([](const Inside&) {});
  ProcessTable table;
  for (int round = 0; round < 20; ++round) {
    std::array<std::shared_ptr<AddressSpace>, 4> got;
    std::vector<std::thread> threads;
    for (auto& each : got) {
      threads.emplace_back([&] { each = table.acquire(client.pid()).value_or(nullptr); });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(std::set(got.begin(), got.end()).size(), 1u);
    EXPECT_NE(got[0], nullptr);
  }
}

TEST(ProcessView, SharedMemoryIsTheSameMemory) {
  SKIP_UNLESS_SHARING();
  for (const bool anonymous : {false, true}) {
    const TestClient client([&](const Inside& inside) {
      const int fd = anonymous ? -1 : memfd_create("coherent", 0);
      if (!anonymous && ftruncate(fd, 2 * kSize) != 0) _exit(1);
      std::byte* const memory =
          map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | (anonymous ? MAP_ANONYMOUS : 0), fd,
              anonymous ? 0 : kPageSize);
      memory[kPageSize + 3] = std::byte{1};
      inside.send(memory);
      inside.wait();
      inside.send(std::to_integer<std::uint64_t>(memory[kPageSize + 4]));
      memory[kPageSize + 5] = std::byte{3};
      inside.send(1);
    });
    ProcessTable table;
    const auto space = *table.acquire(client.pid());
    const auto view = space->view(client.receive() + kPageSize, kPageSize, true);
    ASSERT_TRUE(view);
    EXPECT_EQ(view->host[3], std::byte{1});
    view->host[4] = std::byte{2};
    client.go();
    EXPECT_EQ(client.receive(), 2u);
    EXPECT_EQ(client.receive(), 1u);
    EXPECT_EQ(view->host[5], std::byte{3});
  }
}

TEST(ProcessView, IsThereWithoutTheLeader) {
  SKIP_UNLESS_SHARING();
  TestClient client([](const Inside& inside) {
    std::byte* const memory = map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
    memory[3] = std::byte{1};
    go_on_without_leader(inside, memory);
  });
  client.go();
  ProcessTable table;
  const auto space = *table.acquire(static_cast<pid_t>(client.receive()));
  const auto view = space->view(client.receive(), kPageSize, true);
  ASSERT_TRUE(view);
  client.kill();
  EXPECT_EQ(view->host[3], std::byte{1});
}

TEST(ProcessView, ThousandsOfViewsAreOneMapping) {
  SKIP_UNLESS_SHARING();
  constexpr std::uint64_t pages = 4000;
  const TestClient client([](const Inside& inside) {
    const int fd = memfd_create("one-window", 0);
    if (ftruncate(fd, pages * kPageSize) != 0) _exit(1);
    inside.send(map(pages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  std::vector<View> views;
  for (std::uint64_t page = 0; page < pages; ++page) {
    auto view = space->view(address + page * kPageSize, kPageSize, true);
    ASSERT_TRUE(view);
    views.push_back(std::move(*view));
    EXPECT_EQ(views[page].host, views[0].host + page * kPageSize);
  }
  EXPECT_EQ(own_mappings_named("one-window"), 1u);
  views.clear();
  EXPECT_EQ(own_mappings_named("one-window"), 0u);
}

TEST(ProcessView, ThreadsComeAndGo) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    inside.send(map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  });
  ProcessTable table;
  const std::uint64_t address = client.receive();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        const auto space = table.acquire(client.pid());
        ASSERT_TRUE(space);
        const auto view = (*space)->view(address + i * kPageSize, kPageSize, true);
        ASSERT_TRUE(view);
        view->host[0] = static_cast<std::byte>(round);
        std::array<std::byte, 1> one{};
        ASSERT_TRUE((*space)->read(address + i * kPageSize, one));
        ASSERT_EQ(one[0], static_cast<std::byte>(round));
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(ProcessView, WindowsThatAreGoneAreForgotten) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    for (int i = 0; i < 100; ++i) {
      const int fd = memfd_create("passing", 0);
      if (ftruncate(fd, kPageSize) != 0) _exit(1);
      std::byte* const memory = map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
      memory[0] = static_cast<std::byte>(i);
      close(fd);
      inside.send(memory);
      inside.wait();
      munmap(memory, kPageSize);  // the next one usually lands in the same place
    }
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  for (int i = 0; i < 100; ++i) {
    const auto view = space->view(client.receive(), kPageSize, true);
    ASSERT_TRUE(view);
    EXPECT_EQ(view->host[0], static_cast<std::byte>(i));
    client.go();
  }
  EXPECT_EQ(own_mappings_named("passing"), 0u);
}

TEST(ProcessView, NeighboursInOneFileAreOneRange) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    const int fd = memfd_create("split", 0);
    if (ftruncate(fd, kSize) != 0) _exit(1);
    std::byte* const memory = map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    mprotect(memory + 4 * kPageSize, kPageSize, PROT_READ);
    memory[8 * kPageSize] = std::byte{8};
    inside.send(memory);
    // The same pages, but not in one piece.
    std::byte* const twice = map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    mmap(twice + kPageSize, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    inside.send(twice);
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  const auto all = space->view(address, kSize, false);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->host[8 * kPageSize], std::byte{8});
  EXPECT_EQ(space->view(address, kSize, true).error(), Errno{EFAULT});
  EXPECT_TRUE(space->view(address + 5 * kPageSize, kPageSize, true));
  EXPECT_EQ(space->view(client.receive(), 2 * kPageSize, true).error(), Errno{EOPNOTSUPP});
}

TEST(ProcessView, ReadOnlySharedMemoryIsReadOnly) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    const int fd = memfd_create("read-only", 0);
    if (ftruncate(fd, kPageSize) != 0) _exit(1);
    std::byte* const memory = map(kPageSize, PROT_READ, MAP_SHARED, fd);
    inside.send(memory);
    inside.wait();
    mprotect(memory, kPageSize, PROT_READ | PROT_WRITE);
    inside.send(1);
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  EXPECT_EQ(space->view(address, 1, true).error(), Errno{EFAULT});
  const auto before = space->view(address, 1, false);
  ASSERT_TRUE(before);
  EXPECT_EQ(this_process()->check(reinterpret_cast<std::uintptr_t>(before->host), 1, true).error(),
            Errno{EFAULT});
  client.go();
  ASSERT_EQ(client.receive(), 1u);
  const auto after = space->view(address, 1, true);
  ASSERT_TRUE(after);
  after->host[0] = std::byte{4};
  EXPECT_EQ(before->host[0], std::byte{4});
}

TEST(ProcessView, SurvivesTruncation) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    const int fd = memfd_create("shrinking", 0);
    if (ftruncate(fd, kSize) != 0) _exit(1);
    inside.send(map(kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd));
    inside.wait();
    if (ftruncate(fd, kPageSize) != 0) _exit(1);
    inside.send(1);
    inside.wait();
    if (ftruncate(fd, kSize) != 0 || pwrite(fd, "x", 1, 2 * kPageSize) != 1) _exit(1);
    inside.send(1);
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t address = client.receive();
  const auto view = space->view(address, kSize, true);
  ASSERT_TRUE(view);
  view->host[2 * kPageSize] = std::byte{1};
  client.go();
  ASSERT_EQ(client.receive(), 1u);
  EXPECT_EQ(view->host[2 * kPageSize], std::byte{0});
  EXPECT_EQ(space->view(address + 2 * kPageSize, kPageSize, true).error(), Errno{EFAULT});
  std::array<std::byte, 1> one{};
  EXPECT_EQ(space->read(address + 2 * kPageSize, one).error(), Errno{EFAULT});
  // Once the file has grown again, a new view is the client's memory again.
  client.go();
  ASSERT_EQ(client.receive(), 1u);
  const auto again = space->view(address + 2 * kPageSize, kPageSize, true);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->host[0], std::byte{'x'});
}

TEST(ProcessView, OtherFilesAreCopied) {
  SKIP_UNLESS_SHARING();
  const TestClient client([](const Inside& inside) {
    const int fd = open("/bin/cat", O_RDONLY);
    inside.send(map(kPageSize, PROT_READ, MAP_SHARED, fd));
    const int memory = memfd_create("private", 0);
    if (ftruncate(memory, kPageSize) != 0) _exit(1);
    inside.send(map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, memory));
    // More addresses than we would spend on one client.
    const int sparse = memfd_create("sparse", 0);
    constexpr std::uint64_t size = std::uint64_t{48} << 40;
    if (ftruncate(sparse, size) != 0) _exit(1);
    void* const huge = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, sparse, 0);
    inside.send(huge == MAP_FAILED ? 1 : reinterpret_cast<std::uintptr_t>(huge));
  });
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const std::uint64_t program = client.receive();
  EXPECT_EQ(space->view(program, kPageSize, false).error(), Errno{EOPNOTSUPP});
  EXPECT_TRUE(space->check(program, kPageSize, false));
  EXPECT_EQ(space->view(client.receive(), kPageSize, true).error(), Errno{EOPNOTSUPP});
  const std::uint64_t huge = client.receive();
  if (huge != 1) {
    EXPECT_EQ(space->view(huge, kPageSize, true).error(), Errno{EOPNOTSUPP});
  }
}

TEST(ProcessView, HugePagesAreShared) {
  SKIP_UNLESS_SHARING();
  constexpr std::uint64_t huge = 2 << 20;
  const TestClient client([](const Inside& inside) {
    const int fd = memfd_create("huge", MFD_HUGETLB | MFD_HUGE_2MB);
    void* memory = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, huge) == 0) {
      memory = mmap(nullptr, huge, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (memory == MAP_FAILED) {
      inside.send(std::uint64_t{0});
      return;
    }
    static_cast<std::byte*>(memory)[huge - 1] = std::byte{6};
    inside.send(memory);
    inside.wait();
    if (ftruncate(fd, 0) != 0) _exit(1);
    inside.send(1);
  });
  const std::uint64_t address = client.receive();
  if (address == 0) GTEST_SKIP() << "no huge pages";
  ProcessTable table;
  const auto space = *table.acquire(client.pid());
  const auto view = space->view(address + kPageSize, huge - kPageSize, true);
  ASSERT_TRUE(view);
  EXPECT_EQ(view->host[huge - kPageSize - 1], std::byte{6});
  client.go();
  ASSERT_EQ(client.receive(), 1u);
  EXPECT_EQ(view->host[huge - kPageSize - 1], std::byte{0});
}

TEST(LockLimit, IsTheClientsLessWhatItLockedItself) {
  const TestClient client([](const Inside& inside) {
    std::byte* const memory = map_private(kSize);
    const rlimit limit{.rlim_cur = 256 * kPageSize, .rlim_max = 300 * kPageSize};
    // The call itself: sanitizers make mlock do nothing.
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || syscall(SYS_mlock, memory, kSize) != 0) _exit(1);
    inside.send(1);
    inside.wait();
    const rlimit lower{.rlim_cur = 20 * kPageSize, .rlim_max = 300 * kPageSize};
    if (setrlimit(RLIMIT_MEMLOCK, &lower) != 0) _exit(1);
    inside.send(1);
  });
  ProcessTable table;
  ASSERT_EQ(client.receive(), 1u);
  const auto space = *table.acquire(client.pid());
  EXPECT_EQ(space->lock_limit(), 240u);
  client.go();
  ASSERT_EQ(client.receive(), 1u);
  EXPECT_EQ(space->lock_limit(), 4u);
}

TEST(LockLimit, KnowsWhatIsLockedWithoutTheLeader) {
  const TestClient client([](const Inside& inside) {
    std::byte* const memory = map_private(kSize);
    const rlimit limit{.rlim_cur = 256 * kPageSize, .rlim_max = 300 * kPageSize};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || syscall(SYS_mlock, memory, kSize) != 0) _exit(1);
    go_on_without_leader(inside, memory);
  });
  client.go();
  ProcessTable table;
  EXPECT_EQ((*table.acquire(static_cast<pid_t>(client.receive())))->lock_limit(), 240u);
}

TEST(LockLimit, OfAnotherUserIsReadable) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const TestClient client([](const Inside& inside) {
    const rlimit limit{.rlim_cur = 10 * kPageSize, .rlim_max = 10 * kPageSize};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setuid(65534) != 0) _exit(1);
    inside.send(1);
  });
  ProcessTable table;
  if (client.receive() == 0) GTEST_SKIP() << "no other user here";
  const auto space = table.acquire(client.pid());
  ASSERT_TRUE(space);
  EXPECT_EQ((*space)->lock_limit(), 10u);
}

TEST(LockLimit, MayBeNone) {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_max != RLIM_INFINITY) GTEST_SKIP() << "this shell has a limit";
  const TestClient client([](const Inside& inside) {
    const rlimit none{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    setrlimit(RLIMIT_MEMLOCK, &none);
    inside.send(1);
  });
  ProcessTable table;
  ASSERT_EQ(client.receive(), 1u);
  EXPECT_EQ((*table.acquire(client.pid()))->lock_limit(),
            std::numeric_limits<std::uint64_t>::max());
}

}  // namespace
}  // namespace uvfio::memory
