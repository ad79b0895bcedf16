#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "memory/client_for_test.h"
#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

TEST(ThisProcess, IsOneObject) { EXPECT_EQ(this_process(), this_process()); }

TEST(ThisProcess, UsesPointersAsTheyAre) {
  const auto space = this_process();
  EXPECT_TRUE(space->alive());
  std::array<std::byte, 16> here{};
  const auto view = space->view(address_of(here.data()), here.size(), true);
  ASSERT_TRUE(view);
  EXPECT_EQ(view->host, here.data());
  EXPECT_EQ(view->owner, nullptr);

  std::array<std::byte, 16> data;
  data.fill(std::byte{7});
  EXPECT_TRUE(space->write(address_of(here.data()), data));
  EXPECT_EQ(here, data);
  data.fill(std::byte{0});
  EXPECT_TRUE(space->read(address_of(here.data()), data));
  EXPECT_EQ(here, data);
}

TEST(ThisProcess, BadPointersAreErrors) {
  const auto space = this_process();
  std::array<std::byte, 16> data{};
  for (const std::uint64_t bad : {std::uint64_t{0}, std::uint64_t{8}, UINT64_MAX - 7,
                                  std::uint64_t{1} << 63, std::uint64_t{0xffffffff81000000}}) {
    EXPECT_EQ(space->read(bad, data).error(), Errno{EFAULT}) << std::hex << bad;
    EXPECT_EQ(space->write(bad, data).error(), Errno{EFAULT}) << std::hex << bad;
    EXPECT_EQ(space->check(bad, 16, false).error(), Errno{EFAULT}) << std::hex << bad;
    EXPECT_EQ(space->view(bad, 16, false).error(), Errno{EFAULT}) << std::hex << bad;
  }
  EXPECT_EQ(space->view(address_of(data.data()), 0, false).error(), Errno{EFAULT});
}

TEST(ThisProcess, RespectsProtections) {
  const auto space = this_process();
  auto* const page = static_cast<std::byte*>(
      mmap(nullptr, 2 * kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(page, MAP_FAILED);
  ASSERT_EQ(mprotect(page + kPageSize, kPageSize, PROT_NONE), 0);
  std::array<std::byte, 8> data{};
  EXPECT_EQ(space->write(address_of(page), data).error(), Errno{EFAULT});
  EXPECT_TRUE(space->read(address_of(page), data));
  EXPECT_EQ(space->read(address_of(page) + kPageSize - 4, data).error(), Errno{EFAULT});
  EXPECT_EQ(space->view(address_of(page), 8, true).error(), Errno{EFAULT});
  EXPECT_TRUE(space->view(address_of(page), 8, false));
  EXPECT_EQ(space->check(address_of(page), kPageSize + 1, false).error(), Errno{EFAULT});
  munmap(page, 2 * kPageSize);
}

TEST(ThisProcess, IsTheChildAfterAFork) {
  auto* const page = static_cast<std::byte*>(
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_TRUE(this_process()->check(address_of(page), 1, true));
  const TestClient child([&](const TestClient::Inside& inside) {
    munmap(page, kPageSize);
    inside.send(this_process()->check(address_of(page), 1, true) ? 1 : 2);
  });
  EXPECT_EQ(child.receive(), 2u);
  EXPECT_TRUE(this_process()->check(address_of(page), 1, true));
  munmap(page, kPageSize);
}

// A sandbox around us may refuse process_vm_readv and process_vm_writev.
TEST(ThisProcess, CopiesAlsoInASandbox) {
  const TestClient child([](const TestClient::Inside& inside) {
    std::array<sock_filter, 5> program{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    const sock_fprog filter{.len = program.size(), .filter = program.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      _exit(1);
    }
    auto* const page = static_cast<std::byte*>(
        mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(page + kPageSize, kPageSize, PROT_READ);
    std::array<std::byte, 4> data{std::byte{3}};
    const auto result = [](const Status& status) {
      return status ? 1000 : static_cast<std::uint64_t>(value(status.error()));
    };
    inside.send(result(this_process()->write(address_of(page), data)));
    inside.send(std::to_integer<std::uint64_t>(page[0]));
    page[0] = std::byte{4};
    inside.send(result(this_process()->read(address_of(page), data)));
    inside.send(std::to_integer<std::uint64_t>(data[0]));
    inside.send(result(this_process()->read(0, data)));
    inside.send(result(this_process()->write(address_of(page) + kPageSize, data)));
  });
  EXPECT_EQ(child.receive(), 1000u);
  EXPECT_EQ(child.receive(), 3u);
  EXPECT_EQ(child.receive(), 1000u);
  EXPECT_EQ(child.receive(), 4u);
  EXPECT_EQ(child.receive(), std::uint64_t{EFAULT});
  EXPECT_EQ(child.receive(), std::uint64_t{EFAULT});
}

TEST(ThisProcess, HasTheLimitOfTheProcess) {
  const TestClient child([](const TestClient::Inside& inside) {
    const rlimit limit{.rlim_cur = 10 * kPageSize + 1, .rlim_max = 10 * kPageSize + 1};
    setrlimit(RLIMIT_MEMLOCK, &limit);
    inside.send(this_process()->lock_limit());
  });
  EXPECT_EQ(child.receive(), 10u);
}

}  // namespace
}  // namespace uvfio::memory
