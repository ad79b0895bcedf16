#include "memory/vma.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "memory/client_for_test.h"
#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

// Both ways of asking must give the same answers.
class VmaReaderTest : public testing::TestWithParam<VmaReader::Method> {
 protected:
  static VmaReader reader(const std::string& pid = "self") {
    return VmaReader(Fd(open(("/proc/" + pid + "/maps").c_str(), O_RDONLY | O_CLOEXEC)),
                     GetParam());
  }
};

TEST_P(VmaReaderTest, DescribesAMappingOfAFile) {
  const Fd file(memfd_create("vma", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 4 * kPageSize), 0);
  void* const mapped = mmap(nullptr, 2 * kPageSize, PROT_READ, MAP_SHARED, file.get(), kPageSize);
  ASSERT_NE(mapped, MAP_FAILED);
  const auto address = reinterpret_cast<std::uintptr_t>(mapped);

  const auto vma = reader().find(address + kPageSize + 5);
  ASSERT_TRUE(vma);
  EXPECT_EQ(vma->begin, address);
  EXPECT_EQ(vma->end, address + 2 * kPageSize);
  EXPECT_EQ(vma->offset, kPageSize);
  EXPECT_TRUE(vma->readable);
  EXPECT_FALSE(vma->writable);
  EXPECT_TRUE(vma->shared);
  struct stat status {};
  ASSERT_EQ(fstat(file.get(), &status), 0);
  EXPECT_EQ(vma->device, status.st_dev);
  EXPECT_EQ(vma->inode, status.st_ino);
  munmap(mapped, 2 * kPageSize);
}

TEST_P(VmaReaderTest, ChecksAcrossNeighboursAndHoles) {
  auto* const base = static_cast<std::byte*>(
      mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(base, MAP_FAILED);
  ASSERT_EQ(mprotect(base + 2 * kPageSize, kPageSize, PROT_READ), 0);
  ASSERT_EQ(mprotect(base + 4 * kPageSize, kPageSize, PROT_NONE), 0);
  ASSERT_EQ(munmap(base + 6 * kPageSize, kPageSize), 0);
  const auto page = [&](unsigned n) {
    return reinterpret_cast<std::uintptr_t>(base) + n * kPageSize;
  };

  const VmaReader maps = reader();
  EXPECT_TRUE(maps.check(page(0), 4 * kPageSize, false));
  EXPECT_TRUE(maps.check(page(0), 2 * kPageSize, true));
  EXPECT_EQ(maps.check(page(0), 2 * kPageSize + 1, true).error(), Errno{EFAULT});
  EXPECT_EQ(maps.check(page(3), kPageSize + 1, false).error(), Errno{EFAULT});
  EXPECT_TRUE(maps.check(page(5), kPageSize, true));
  EXPECT_EQ(maps.check(page(5), kPageSize + 1, true).error(), Errno{EFAULT});
  EXPECT_EQ(maps.find(page(6)).error(), Errno{EFAULT});
  munmap(base, 8 * kPageSize);
}

TEST_P(VmaReaderTest, RefusesRangesThatWrapAround) {
  const VmaReader maps = reader();
  int here = 0;
  const auto address = reinterpret_cast<std::uintptr_t>(&here);
  EXPECT_EQ(maps.check(address, UINT64_MAX, false).error(), Errno{EFAULT});
  EXPECT_EQ(maps.check(address, -address, false).error(), Errno{EFAULT});
  EXPECT_EQ(maps.check(UINT64_MAX, 1, false).error(), Errno{EFAULT});
  EXPECT_EQ(maps.check(-kPageSize, kPageSize, false).error(), Errno{EFAULT});
  EXPECT_EQ(maps.check(0, 1, false).error(), Errno{EFAULT});
  EXPECT_TRUE(maps.check(0, 0, true));
}

TEST_P(VmaReaderTest, KnowsThatAProcessIsGone) {
  static int here = 0;
  TestClient client([](const TestClient::Inside&) {});
  const VmaReader maps = reader(std::to_string(client.pid()));
  const auto address = reinterpret_cast<std::uintptr_t>(&here);
  EXPECT_TRUE(maps.check(address, 1, true));
  client.kill();
  EXPECT_EQ(maps.check(address, 1, true).error(), Errno{ESRCH});
}

INSTANTIATE_TEST_SUITE_P(Methods, VmaReaderTest,
                         testing::Values(VmaReader::Method::kBest, VmaReader::Method::kText),
                         [](const auto& method) {
                           return method.param == VmaReader::Method::kBest ? "Best" : "Text";
                         });

}  // namespace
}  // namespace uvfio::memory
