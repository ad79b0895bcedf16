#include "launcher/mount_namespace.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace uvfio::launcher {
namespace {

namespace fs = std::filesystem;

// A detached tree that stands for the server's.
Fd make_server_root() {
  const int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
  fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  Fd root(fsmount(context, FSMOUNT_CLOEXEC, 0));
  close(context);
  for (const char* directory : {"dev", "dev/vfio", "sys", "sys/class", "sys/class/uvfio_test", "sys/kernel",
                                "sys/kernel/iommu_groups", "sys/kernel/iommu_groups/4711"}) {
    mkdirat(root.get(), directory, 0755);
  }
  close(openat(root.get(), "dev/vfio/vfio", O_CREAT | O_WRONLY, 0666));
  symlinkat("../../devices", root.get(), "sys/class/uvfio_test/link");
  return root;
}

// What the test's child found wrong, as an exit status.
int look_at_overlay() {
  if (!enter_mount_namespace()) return 77;  // not possible here
  const auto before = std::distance(fs::directory_iterator("/sys/class"), fs::directory_iterator());
  const Fd root = make_server_root();
  if (!root) return 77;
  if (auto laid = overlay(root); !laid) {
    std::fprintf(stderr, "%s\n", laid.error().c_str());
    return 1;
  }
  if (!fs::exists("/dev/vfio/vfio")) return 2;
  if (!fs::exists("/sys/kernel/iommu_groups/4711")) return 3;
  if (fs::read_symlink("/sys/class/uvfio_test/link") != "../../devices") return 4;
  const auto after = std::distance(fs::directory_iterator("/sys/class"), fs::directory_iterator());
  if (after != before + 1) return 5;  // the rest is as before
  std::ofstream null("/dev/null", std::ios::trunc);
  if (!(null << "x" << std::flush)) return 6;  // protected_regular must not bite
  if (!fs::exists("/sys/class/net/lo/address")) return 7;
  mkdirat(root.get(), "sys/class/uvfio_test/later", 0755);
  if (!fs::exists("/sys/class/uvfio_test/later")) return 8;  // what is ours alone stays live
  return 0;
}

TEST(MountNamespace, LaysTheServersDirectoriesOverTheMachines) {
  const pid_t child = fork();
  if (child == 0) _exit(look_at_overlay());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "mount namespaces are not allowed here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_FALSE(fs::exists("/sys/kernel/iommu_groups/4711")) << "nothing is left on the machine";
}

}  // namespace
}  // namespace uvfio::launcher
