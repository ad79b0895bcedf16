#include "base/sigbus_guard.h"

#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

#include "memory/window.h"
#include "uvfio/fd.h"
#include "uvfio/memory.h"

namespace uvfio {
namespace {

using memory::kPageSize;
using memory::Window;

Fd file_of(std::uint64_t pages) {
  Fd file(memfd_create("guarded", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(pages * kPageSize)), 0);
  return file;
}

std::byte load(const std::byte* address) {
  return *static_cast<const volatile std::byte*>(address);
}
void store(std::byte* address, std::byte value) {
  *static_cast<volatile std::byte*>(address) = value;
}

TEST(SigbusGuard, ALostPageReadsAsZerosAndTakesWrites) {
  const Fd file = file_of(4);
  const auto window =
      Window::map(file.get(), {.offset = 0, .size = 4 * kPageSize}, kPageSize, true);
  ASSERT_TRUE(window);
  std::byte* const base = (*window)->at(0);
  store(base, std::byte{1});
  store(base + 2 * kPageSize, std::byte{2});
  ASSERT_EQ(ftruncate(file.get(), kPageSize), 0);

  errno = 99;
  EXPECT_EQ(load(base + 2 * kPageSize), std::byte{0});
  EXPECT_EQ(errno, 99);
  store(base + 3 * kPageSize + 5, std::byte{3});
  EXPECT_EQ(load(base + 3 * kPageSize + 5), std::byte{3});
  EXPECT_EQ(load(base), std::byte{1}) << "what is still the client's stays";
  EXPECT_EQ((*window)->faults(), 2u);
}

TEST(SigbusGuard, ReadOnlyRangesStayReadOnly) {
  const Fd file = file_of(1);
  const auto window = Window::map(file.get(), {.offset = 0, .size = kPageSize}, kPageSize, false);
  ASSERT_TRUE(window);
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  EXPECT_EQ(load((*window)->at(0)), std::byte{0});
  EXPECT_EXIT(
      {
        std::signal(SIGSEGV, [](int) { _exit(7); });
        store((*window)->at(0), std::byte{1});
        _exit(0);
      },
      testing::ExitedWithCode(7), "");
}

// Every second page would cost two mappings; a client must not be able to use all of ours up.
TEST(SigbusGuard, ManyFaultsDoNotUseUpTheMappings) {
  constexpr std::uint64_t pages = 200000;
  const Fd file = file_of(pages);
  const auto window =
      Window::map(file.get(), {.offset = 0, .size = pages * kPageSize}, kPageSize, true);
  ASSERT_TRUE(window);
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  for (std::uint64_t page = 0; page < pages; page += 2) {
    ASSERT_EQ(load((*window)->at(page * kPageSize)), std::byte{0});
  }
  EXPECT_LT((*window)->faults(), 100u);
}

TEST(SigbusGuard, ThreadsFaultWhileOthersRegister) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] {
      for (int round = 0; round < 200; ++round) {
        const Fd file = file_of(2);
        const auto window =
            Window::map(file.get(), {.offset = 0, .size = 2 * kPageSize}, kPageSize, true);
        ASSERT_TRUE(window);
        store((*window)->at(0), std::byte{1});
        ASSERT_EQ(ftruncate(file.get(), 0), 0);
        ASSERT_EQ(load((*window)->at(kPageSize)), std::byte{0});
        ASSERT_EQ((*window)->faults(), 1u);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(SigbusGuard, HugePagesAreReplacedWhole) {
  constexpr std::uint64_t huge = 2 << 20;
  const Fd file(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB));
  if (!file || ftruncate(file.get(), huge) != 0) GTEST_SKIP() << "no hugetlbfs";
  const auto window = Window::map(file.get(), {.offset = 0, .size = huge}, huge, true);
  ASSERT_TRUE(window);
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  store((*window)->at(huge / 2 + 5), std::byte{3});
  EXPECT_EQ(load((*window)->at(huge / 2 + 5)), std::byte{3});
  EXPECT_EQ((*window)->faults(), 1u);
}

using SigbusGuardDeathTest = testing::Test;

// In a new process each, where the handler has not been installed yet.
TEST(SigbusGuardDeathTest, FaultsElsewhereGoToTheHandlerBefore) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, [](int) { _exit(42); });
        const Fd file = file_of(1);
        const auto window =
            Window::map(file.get(), {.offset = 0, .size = kPageSize}, kPageSize, true);
        const Fd other = file_of(1);
        auto* const foreign = static_cast<std::byte*>(
            mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, other.get(), 0));
        if (ftruncate(other.get(), 0) == 0) load(foreign);
        _exit(0);
      },
      testing::ExitedWithCode(42), "");
}

TEST(SigbusGuardDeathTest, WithoutAHandlerBeforeTheSignalKills) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, SIG_DFL);
        const Fd file = file_of(1);
        const auto window =
            Window::map(file.get(), {.offset = 0, .size = kPageSize}, kPageSize, true);
        std::raise(SIGBUS);
        _exit(0);
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace uvfio
