#include "devices/nvme/cached_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "devices/nvme/driver_for_test.h"

namespace uvfio::nvme {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSize = 64 * kPage + 512;  // the last page is not all of the file's

class CachedFileTest : public ::testing::Test {
 protected:
  void fill(std::uint64_t offset, std::uint64_t size, char value) {
    const std::vector<char> data(size, value);
    ASSERT_EQ(pwrite(fd_.get(), data.data(), size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
  }
  // What the file says, in two pieces; empty: nothing.
  std::string read(std::uint64_t offset, std::size_t size) {
    std::string data(size, '?');
    const std::array<iovec, 2> pieces{
        {{data.data(), size / 2}, {data.data() + size / 2, size - size / 2}}};
    const std::size_t got = cached_.read(offset, pieces);
    EXPECT_TRUE(got == 0 || got == size);
    return got == 0 ? "" : data;
  }

  TestFile file_{kSize};
  Fd fd_{open(file_.path().c_str(), O_RDWR | O_CLOEXEC)};
  CachedFile cached_{fd_.get(), kSize};
};

TEST_F(CachedFileTest, ReadsWhatIsInThePageCacheAndSeesEachWrite) {
  fill(0, kSize, 'a');
  EXPECT_EQ(read(kPage - 100, 200), std::string(200, 'a'));
  EXPECT_EQ(read(kSize - 512, 512), std::string(512, 'a'));
  fill(kPage, 10, 'b');
  EXPECT_EQ(read(kPage, 20), std::string(10, 'b') + std::string(10, 'a'));
}

TEST_F(CachedFileTest, LeavesToTheFileWhatIsNotThere) {
  fill(0, kPage, 'a');  // all else are holes, which nobody has read
  EXPECT_EQ(read(8 * kPage, 512), "");
  EXPECT_EQ(read(0, 2 * kPage), "");
  EXPECT_EQ(read(0, kPage), std::string(kPage, 'a'));
}

TEST_F(CachedFileTest, AFileThatShrinksCostsNothingButThisWay) {
  fill(0, kSize, 'a');
  ASSERT_EQ(read(0, kSize), std::string(kSize, 'a'));
  ASSERT_EQ(ftruncate(fd_.get(), kPage), 0);
  EXPECT_EQ(read(4 * kPage, 512), "");
  EXPECT_EQ(read(0, 512), std::string(512, 'a'));
  ASSERT_EQ(ftruncate(fd_.get(), kSize), 0);
  fill(4 * kPage, 512, 'b');
  EXPECT_EQ(read(4 * kPage, 512), std::string(512, 'b'));
}

TEST(CachedFile, WithoutAMappingNothingIsCached) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const Fd from(ends[0]);
  const Fd to(ends[1]);
  CachedFile none(from.get(), kPage);
  std::array<char, 16> data{};
  const iovec all{data.data(), data.size()};
  EXPECT_EQ(none.read(0, {&all, 1}), 0U);
}

}  // namespace
}  // namespace uvfio::nvme
