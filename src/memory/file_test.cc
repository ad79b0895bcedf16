#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

constexpr std::uint64_t kSize = 4 * kPageSize;

Fd file_of(std::uint64_t size) {
  Fd file(memfd_create("file", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
  return file;
}

TEST(FromFd, AddressesAreOffsets) {
  const Fd file = file_of(kSize);
  const auto space = from_fd(*file.duplicate(), kSize);
  ASSERT_TRUE(space);
  EXPECT_TRUE((*space)->alive());

  std::array<std::byte, 4> data{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE((*space)->write(kPageSize + 1, data));
  std::array<std::byte, 4> back{};
  ASSERT_EQ(pread(file.get(), back.data(), 4, kPageSize + 1), 4);
  EXPECT_EQ(back, data);

  const auto view = (*space)->view(kPageSize, kPageSize, true);
  ASSERT_TRUE(view);
  EXPECT_EQ(view->host[1], std::byte{1});
  view->host[1] = std::byte{9};
  ASSERT_TRUE((*space)->read(kPageSize + 1, back));
  EXPECT_EQ(back[0], std::byte{9});
}

TEST(FromFd, AViewOutlivesItsAddressSpace) {
  auto space = from_fd(file_of(kSize), kSize);
  auto view = (*space)->view(0, kSize, true);
  space->reset();
  view->host[kSize - 1] = std::byte{5};
  EXPECT_EQ(view->host[kSize - 1], std::byte{5});
}

TEST(FromFd, RefusesWhatLiesOutside) {
  const auto space = from_fd(file_of(kSize), kSize - 1);
  ASSERT_TRUE(space);
  std::array<std::byte, 2> data{};
  for (const std::uint64_t bad : {kSize - 2, kSize, UINT64_MAX, UINT64_MAX - 1}) {
    EXPECT_EQ((*space)->read(bad, data).error(), Errno{EFAULT}) << bad;
    EXPECT_EQ((*space)->write(bad, data).error(), Errno{EFAULT}) << bad;
    EXPECT_EQ((*space)->check(bad, 2, false).error(), Errno{EFAULT}) << bad;
    EXPECT_EQ((*space)->view(bad, 2, false).error(), Errno{EFAULT}) << bad;
  }
  EXPECT_EQ((*space)->check(1, UINT64_MAX, false).error(), Errno{EFAULT});
  EXPECT_TRUE((*space)->read(kSize - 3, data));
}

TEST(FromFd, ReadOnlyFilesAreNotWritten) {
  const Fd file = file_of(kSize);
  const std::string link = "/proc/self/fd/" + std::to_string(file.get());
  const auto space = from_fd(Fd(open(link.c_str(), O_RDONLY | O_CLOEXEC)), kSize);
  ASSERT_TRUE(space);
  std::array<std::byte, 2> data{};
  EXPECT_TRUE((*space)->read(0, data));
  EXPECT_EQ((*space)->write(0, data).error(), Errno{EFAULT});
  EXPECT_EQ((*space)->view(0, 2, true).error(), Errno{EFAULT});
  EXPECT_TRUE((*space)->view(0, 2, false));
}

TEST(FromFd, SurvivesTruncation) {
  const Fd file = file_of(kSize);
  const auto space = from_fd(*file.duplicate(), kSize);
  ASSERT_TRUE(space);
  const auto view = (*space)->view(0, kSize, true);
  ASSERT_EQ(ftruncate(file.get(), 0), 0);
  std::array<std::byte, 8> data{std::byte{1}};
  EXPECT_EQ((*space)->read(kPageSize, data).error(), Errno{EFAULT});
  EXPECT_EQ((*space)->write(0, data).error(), Errno{EFAULT});
  EXPECT_EQ(view->host[2 * kPageSize], std::byte{0});
}

TEST(FromFd, RefusesWhatCannotBeMapped) {
  EXPECT_EQ(from_fd(Fd(), kSize).error(), Errno{EBADF});
  EXPECT_EQ(from_fd(Fd(open("/dev/zero", O_RDWR | O_CLOEXEC)), kSize).error(), Errno{EINVAL});
  EXPECT_EQ(from_fd(file_of(kSize), 0).error(), Errno{EINVAL});
  EXPECT_EQ(from_fd(file_of(kSize), kSize + 1).error(), Errno{EINVAL});
  EXPECT_EQ(from_fd(file_of(kSize), UINT64_MAX).error(), Errno{EINVAL});
  EXPECT_EQ(from_fd(file_of(std::uint64_t{1} << 62), std::uint64_t{1} << 62).error(),
            Errno{ENOSPC});
}

}  // namespace
}  // namespace uvfio::memory
