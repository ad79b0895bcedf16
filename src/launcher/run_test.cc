#include "launcher/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include "base/log.h"
#include "launcher/program.h"

namespace uvfio::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

// A `uvfio run` in a process of its own, with what it prints.
class Running {
 public:
  // `prepare` runs in that process first.
  explicit Running(
      const RunOptions& options, const std::function<void()>& prepare = [] {}) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) std::abort();
    out_.reset(ends[0]);
    Fd write_end(ends[1]);
    pid_ = fork();
    if (pid_ == 0) {
      alarm(60);
      dup2(write_end.get(), STDOUT_FILENO);
      dup2(write_end.get(), STDERR_FILENO);
      write_end.reset();
      out_.reset();
      spdlog::set_level(spdlog::level::off);
      prepare();
      _exit(run(options));
    }
  }
  // All that it prints, until everybody has closed it.
  std::string read_all() {
    std::string text;
    while (const auto more = read_some()) text += *more;
    return text;
  }
  std::string read_line() {
    std::string text;
    while (!text.ends_with('\n')) {
      const auto more = read_some();
      if (!more) break;
      text += *more;
    }
    return text;
  }
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  void signal(int number) const { kill(pid_, number); }

 private:
  std::optional<std::string> read_some() {
    std::array<char, 4096> buffer{};
    const ssize_t size = read(out_.get(), buffer.data(), buffer.size());
    if (size <= 0) return std::nullopt;
    return std::string(buffer.data(), static_cast<std::size_t>(size));
  }

  pid_t pid_ = -1;
  Fd out_;
};

RunOptions shell(const std::string& script) {
  RunOptions options;
  options.topology.mdevs.push_back({.type = "mtty-1", .uuid = Uuid::parse(kUuid).value()});
  options.command = {"/bin/sh", "-c", script};
  return options;
}

struct Finished {
  int status;
  std::string output;
};
Finished finish(const RunOptions& options) {
  Running running(options);
  std::string output = running.read_all();
  return {.status = running.wait(), .output = std::move(output)};
}

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto tried = finish(shell("true"));
    if (tried.status == kExitFailed) GTEST_SKIP() << tried.output;
  }
};

TEST_F(RunTest, PassesOnTheExitStatus) {
  EXPECT_EQ(finish(shell("exit 7")).status, 7);
  EXPECT_EQ(finish(shell("kill -9 $$")).status, kExitSignal + SIGKILL);
  RunOptions options;
  options.command = {"/nonexistent"};
  EXPECT_EQ(finish(options).status, kExitNotFound);
  options.command = {"/etc/passwd"};
  EXPECT_EQ(finish(options).status, kExitNotExecutable);
}

TEST_F(RunTest, SaysWhatIsWrongWithADevice) {
  RunOptions options = shell("true");
  options.topology.mdevs.push_back({.type = "gpu-1", .uuid = {}});
  const auto finished = finish(options);
  EXPECT_EQ(finished.status, kExitFailed);
  EXPECT_THAT(finished.output, StartsWith("uvfio: there is no mdev type \"gpu-1\""));
}

TEST_F(RunTest, ShowsTheDevicesToTheProgramOnly) {
  const auto script = R"sh(
    test "$UVFIO_MDEV" = "$UVFIO_MDEV_0" || exit 1
    test -w /dev/vfio/vfio && test -w /dev/vfio/$UVFIO_GROUP_0 || exit 2
    test $(basename $(readlink $UVFIO_SYSFS_0/iommu_group)) = $UVFIO_GROUP_0 || exit 3
    test -d /sys/kernel/iommu_groups/$UVFIO_GROUP_0 || exit 4
    test -e /sys/class/mdev_bus/mtty/$UVFIO_MDEV || exit 5
    test -e /sys/class/net/lo && echo x >/dev/null || exit 6)sh";
  const auto finished = finish(shell(script));
  EXPECT_EQ(finished.status, 0) << finished.output;
  EXPECT_FALSE(std::filesystem::exists(std::string("/sys/bus/mdev/devices/") + kUuid));
}

TEST_F(RunTest, ShowsDevicesThatTheProgramMakes) {
  const auto script = R"sh(
    uuid=00000000-0000-0000-0000-000000000001
    echo $uuid > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create || exit 1
    group=$(basename $(readlink /sys/bus/mdev/devices/$uuid/iommu_group))
    test -e /dev/vfio/$group || exit 2
    test -d /sys/kernel/iommu_groups/$group/devices/$uuid || exit 3
    echo 1 > /sys/bus/mdev/devices/$uuid/remove || exit 4
    test ! -e /dev/vfio/$group || exit 5)sh";
  const auto finished = finish(shell(script));
  EXPECT_EQ(finished.status, 0) << finished.output;
}

TEST_F(RunTest, StandsBesideTheIommuGroupsOfTheMachine) {
  const auto script = R"sh(
    uuid=00000000-0000-0000-0000-000000000001
    test $UVFIO_GROUP_0 = 8 || exit 1
    test "$(cat /sys/kernel/iommu_groups/7/type)" = DMA-FQ || exit 2
    echo $uuid > /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create || exit 3
    test "$(echo $(ls /sys/kernel/iommu_groups))" = '7 8 9' || exit 4
    )sh";
  Running running(shell(script), [] {
    // A machine with one IOMMU group.
    const char* groups = "/sys/kernel/iommu_groups";
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("test", groups, "tmpfs", 0, nullptr) != 0) {
      _exit(77);
    }
    std::filesystem::create_directory(std::string(groups) + "/7");
    std::ofstream(std::string(groups) + "/7/type") << "DMA-FQ\n";
  });
  const auto output = running.read_all();
  const int status = running.wait();
  if (status == 77) GTEST_SKIP() << "only root can make a machine with an IOMMU group";
  EXPECT_EQ(status, 0) << output;
}

TEST_F(RunTest, ChangesNothingElseForTheProgram) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  setenv("UVFIO_GROUP_9", "from outside", 1);
  const auto finished =
      finish(shell("ulimit -n; grep -E 'Sig(Blk|Ign)' /proc/self/status; echo g=$UVFIO_GROUP_9"));
  unsetenv("UVFIO_GROUP_9");
  EXPECT_THAT(finished.output, StartsWith(std::to_string(files.rlim_cur) + "\n"));
  EXPECT_THAT(finished.output, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(finished.output, HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_THAT(finished.output, HasSubstr("g=\n"));
}

TEST_F(RunTest, PassesSignalsOn) {
  Running running(shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"));
  ASSERT_EQ(running.read_line(), "ready\n");
  running.signal(SIGTERM);
  EXPECT_EQ(running.wait(), 9);
}

TEST_F(RunTest, EndsWhatTheProgramLeavesRunning) {
  const auto finished = finish(shell("sleep 1000 & echo $!"));
  EXPECT_EQ(finished.status, 0);
  EXPECT_EQ(kill(std::stoi(finished.output), 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(RunTest, AKilledUvfioTakesTheProgramWithIt) {
  Running running(shell("echo $$; exec sleep 1000"));
  const Fd program(static_cast<int>(syscall(SYS_pidfd_open, std::stoi(running.read_line()), 0)));
  ASSERT_TRUE(program);
  running.signal(SIGKILL);
  EXPECT_EQ(running.wait(), -SIGKILL);
  pollfd end{.fd = program.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&end, 1, 10'000), 1) << "the program is still there";
}

TEST_F(RunTest, AWorkingDirectoryThatIsCoveredIsEnteredAnew) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path("/sys/class");
  const auto finished = finish(shell("test -e mdev_bus"));
  std::filesystem::current_path(before);
  EXPECT_EQ(finished.status, 0);
}

}  // namespace
}  // namespace uvfio::launcher
