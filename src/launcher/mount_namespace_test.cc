#include "launcher/mount_namespace.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

namespace uvfio::launcher {
namespace {

namespace fs = std::filesystem;

constexpr int kImpossible = 77;

// A detached tree that stands for the server's.
Fd make_server_root() {
  const Fd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  Fd root(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  for (const char* directory :
       {"dev", "dev/vfio", "sys", "sys/class", "sys/class/uvfio_test", "sys/kernel",
        "sys/kernel/iommu_groups", "sys/kernel/iommu_groups/4711"}) {
    mkdirat(root.get(), directory, 0755);
  }
  close(openat(root.get(), "dev/vfio/vfio", O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
  static_cast<void>(!symlinkat("../../devices", root.get(), "sys/class/uvfio_test/link"));
  return root;
}

bool lay(const Fd& root) {
  const auto laid = overlay(root);
  if (!laid) std::fprintf(stderr, "%s\n", laid.error().c_str());
  return laid.has_value();
}

auto count(const char* directory) {
  return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

// Runs `body` in a child, because the namespace that it enters cannot be left. What it returns
// names the check that failed.
void in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(enter_mount_namespace() ? body() : kImpossible);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kImpossible) GTEST_SKIP() << "mount namespaces are not allowed here";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "check number";
}

int look_at_overlay() {
  const auto before = count("/sys/class");
  const auto devices_before = count("/dev");
  const bool had_vfio = fs::exists("/dev/vfio");
  const Fd root = make_server_root();
  if (!root) return kImpossible;
  if (!lay(root)) return 1;
  if (!fs::exists("/dev/vfio/vfio")) return 2;
  if (!fs::exists("/sys/kernel/iommu_groups/4711")) return 3;
  if (fs::read_symlink("/sys/class/uvfio_test/link") != "../../devices") return 4;
  // The rest is as before.
  if (count("/sys/class") != before + 1) return 5;
  if (count("/dev") != devices_before + (had_vfio ? 0 : 1)) return 6;
  if (!fs::exists("/sys/class/net/lo/address")) return 7;
  std::ofstream null("/dev/null", std::ios::trunc);
  if (!(null << "x" << std::flush)) return 8;  // protected_regular must not bite
  // What is ours alone stays live.
  mkdirat(root.get(), "sys/class/uvfio_test/later", 0755);
  if (!fs::exists("/sys/class/uvfio_test/later")) return 9;
  if (fs::exists("/sys/.uvfio")) return 10;  // the scaffold is gone
  return 0;
}

TEST(MountNamespace, LaysTheServersDirectoriesOverTheMachines) {
  in_child(look_at_overlay);
  EXPECT_FALSE(fs::exists("/sys/kernel/iommu_groups/4711")) << "nothing is left on the machine";
}

TEST(MountNamespace, WorksInAUserNamespace) {
  const pid_t child = fork();
  if (child == 0) {
    // Without capabilities enter_mount_namespace has to go the ordinary user's way.
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(kImpossible);
    prctl(PR_SET_DUMPABLE, 1);  // setuid() has made /proc/self root's
    if (const auto entered = enter_mount_namespace(); !entered) {
      std::fprintf(stderr, "%s\n", entered.error().c_str());
      _exit(kImpossible);
    }
    const auto user = geteuid();
    const int failed = look_at_overlay();
    _exit(failed != 0 ? failed : geteuid() == user ? 0 : 20);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kImpossible) GTEST_SKIP() << "user namespaces are not allowed here";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "check number";
}

// Two IOMMU groups of the machine, in a live directory.
int look_at_live_directory() {
  const std::string groups = "/sys/kernel/iommu_groups";
  if (mount("test", groups.c_str(), "tmpfs", 0, nullptr) != 0) return kImpossible;
  for (const char* group : {"/0", "/7"}) {
    fs::create_directory(groups + group);
    std::ofstream(groups + group + "/type") << "DMA-FQ";
  }
  const auto entries = machine_entries();
  for (const char* group : {"0", "7"}) {
    const auto path = std::string("kernel/iommu_groups/") + group;
    const auto found = std::ranges::find(entries, path, &MachineEntry::path);
    if (found == entries.end() || !found->link_target.empty()) return 1;
  }
  const Fd root = make_server_root();
  if (!root) return kImpossible;
  mkdirat(root.get(), "sys/kernel/iommu_groups/0", 0755);  // a place for one of the two
  if (!lay(root)) return 2;
  if (!fs::exists(groups + "/0/type")) return 3;
  if (!fs::exists(groups + "/4711")) return 4;
  if (fs::exists(groups + "/7")) return 5;  // no place, no harm
  mkdirat(root.get(), "sys/kernel/iommu_groups/4712", 0755);
  if (!fs::exists(groups + "/4712")) return 6;
  return 0;
}

TEST(MountNamespace, ALiveDirectoryShowsTheMachinesEntriesAndOurNewOnes) {
  in_child(look_at_live_directory);
}

}  // namespace
}  // namespace uvfio::launcher
