#include "nodes/mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace uvfio::nodes {
namespace {

// glibc before 2.36 has no wrappers for these.
int fs_open(const char* type) {
  return static_cast<int>(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
}
int fs_config(const Fd& context, unsigned command, const char* key, const char* text) {
  return static_cast<int>(syscall(SYS_fsconfig, context.get(), command, key, text, 0));
}
int fs_mount(const Fd& context, unsigned attributes) {
  return static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes));
}

// What the kernel says about a failed step, if it says something: "e fuse: Unknown parameter".
std::string explanation(const Fd& context, int error) {
  std::array<char, 256> text{};
  const ssize_t size = read(context.get(), text.data(), text.size());
  if (size > 2) {
    return fmt::format("{} ({})", strerror(error),
                       std::string_view(text.data() + 2, static_cast<std::size_t>(size) - 2));
  }
  return strerror(error);
}

}  // namespace

std::expected<DetachedMount, std::string> mount_detached() {
  DetachedMount mount;
  mount.device.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!mount.device) {
    const int error = errno;
    return std::unexpected(fmt::format(
        "cannot open /dev/fuse: {}. {}", strerror(error),
        error == ENOENT || error == ENODEV
            ? "Load the kernel's fuse module (modprobe fuse); in a container, give it /dev/fuse."
        : error == EACCES || error == EPERM ? "Run as a user who may open it."
                                            : "Is a limit of this process reached (ulimit)?"));
  }
  const Fd context(fs_open("fuse"));
  if (!context) {
    const int error = errno;
    return std::unexpected(fmt::format(
        "cannot make a FUSE file system: {}. {}", strerror(error),
        error == EPERM
            ? "CAP_SYS_ADMIN is needed: be root, or start in a user namespace (unshare -Urm)."
        : error == ENOSYS ? "Linux 5.14 or later is needed."
                          : "Is the fuse module there?"));
  }
  const std::string device = std::to_string(mount.device.get());
  const std::string uid = std::to_string(geteuid());
  const std::string gid = std::to_string(getegid());
  struct Setting {
    unsigned command;
    const char* key;
    const char* text;
  };
  const std::array settings{
      Setting{FSCONFIG_SET_STRING, "source", "uvfio"},
      Setting{FSCONFIG_SET_STRING, "subtype", "uvfio"},
      Setting{FSCONFIG_SET_STRING, "fd", device.c_str()},
      Setting{FSCONFIG_SET_STRING, "rootmode", "40000"},
      Setting{FSCONFIG_SET_STRING, "user_id", uid.c_str()},
      Setting{FSCONFIG_SET_STRING, "group_id", gid.c_str()},
      Setting{FSCONFIG_SET_FLAG, "allow_other", nullptr},
      Setting{FSCONFIG_SET_FLAG, "default_permissions", nullptr},
      Setting{FSCONFIG_CMD_CREATE, nullptr, nullptr},
  };
  for (const Setting& setting : settings) {
    if (fs_config(context, setting.command, setting.key, setting.text) != 0) {
      return std::unexpected(fmt::format("cannot set up the FUSE file system ({}): {}",
                                         setting.key != nullptr ? setting.key : "create",
                                         explanation(context, errno)));
    }
  }
  mount.root.reset(fs_mount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!mount.root) {
    return std::unexpected(
        fmt::format("cannot mount the FUSE file system: {}", explanation(context, errno)));
  }
  return mount;
}

}  // namespace uvfio::nodes
