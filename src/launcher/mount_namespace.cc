#include "launcher/mount_namespace.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <string_view>

namespace uvfio::launcher {
namespace {

// Directories of /sys that the machine and the server both have entries in. Anything else that both have
// is the server's.
constexpr std::array<std::string_view, 7> kShared{
    "", "bus", "class", "devices", "devices/virtual", "kernel", "kernel/iommu_groups",
};

// Name and d_type of each entry.
using Entries = std::map<std::string, unsigned char>;

Entries entries_of(const Fd& directory) {
  Entries entries;
  const int fd = openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return entries;
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(fdopendir(fd), closedir);
  while (const dirent* entry = readdir(listing.get())) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    unsigned char type = entry->d_type;
    if (struct stat status; type == DT_UNKNOWN && fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
      type = static_cast<unsigned char>(IFTODT(status.st_mode));
    }
    entries.emplace(name, type);
  }
  return entries;
}

Fd open_path(const Fd& directory, const std::string& name) {
  return Fd(openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Shows entry `name` of `from` as the same name in `to`, whatever it is.
Outcome<void> show(const Fd& from, const std::string& name, unsigned char type, const Fd& to) {
  if (type == DT_LNK) {
    std::array<char, PATH_MAX> target{};
    if (readlinkat(from.get(), name.c_str(), target.data(), target.size() - 1) < 0 ||
        symlinkat(target.data(), to.get(), name.c_str()) != 0) {
      return failure("cannot copy the link {}: {}", name, strerror(errno));
    }
    return {};
  }
  if (type == DT_DIR) {
    if (mkdirat(to.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
      return failure("cannot make the directory {}: {}", name, strerror(errno));
    }
  } else {
    Fd(openat(to.get(), name.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  }
  // Recursively: in a user namespace a mount may not be shown without what is mounted below it.
  const Fd tree(open_tree(from.get(), name.c_str(),
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW));
  if (!tree || move_mount(tree.get(), "", to.get(), name.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return failure("cannot bind {}: {}", name, strerror(errno));
  }
  return {};
}

// Fills `to` with what `machine` has and what `server` has.
Outcome<void> merge(const Fd& machine, const Fd& server, const Fd& to, const std::string& path) {
  const Entries theirs = entries_of(machine);
  const Entries ours = entries_of(server);
  for (const auto& [name, type] : theirs) {
    if (ours.contains(name)) continue;
    // An entry that has gone since, or that may not be shown, is no reason to give up.
    static_cast<void>(show(machine, name, type, to));
  }
  for (const auto& [name, type] : ours) {
    const std::string below = path.empty() ? name : path + "/" + name;
    const auto both = theirs.find(name);
    if (both != theirs.end() && both->second == DT_DIR && std::ranges::count(kShared, below) != 0) {
      const Fd machine_below = open_path(machine, name);
      if (!entries_of(machine_below).empty()) {
        if (mkdirat(to.get(), name.c_str(), 0755) != 0) {
          return failure("cannot make the directory {}: {}", below, strerror(errno));
        }
        if (auto merged = merge(machine_below, open_path(server, name), open_path(to, name), below); !merged) {
          return merged;
        }
        continue;
      }
    }
    if (auto shown = show(server, name, type, to); !shown) return shown;
  }
  return {};
}

// Covers `path` with an empty file system. mode: with the default of 1777 a root shell could not write to
// the files of others that are bound into it (fs.protected_regular).
Outcome<void> cover(const char* path) {
  if (mount("uvfio", path, "tmpfs", MS_NOSUID, "mode=0755") != 0) {
    return failure("cannot mount over {}: {}", path, strerror(errno));
  }
  return {};
}

Outcome<void> overlay_dev(const Fd& server_dev) {
  const Fd machine(open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (const Fd vfio = open_path(machine, "vfio"); vfio) return show(server_dev, "vfio", DT_DIR, machine);
  if (auto covered = cover("/dev"); !covered) return covered;
  const Fd covered(open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return merge(machine, server_dev, covered, "");
}

Outcome<void> overlay_sys(const Fd& server_sys) {
  const Fd machine(open("/sys", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (auto covered = cover("/sys"); !covered) return covered;
  const Fd covered(open("/sys", O_PATH | O_DIRECTORY | O_CLOEXEC));
  return merge(machine, server_sys, covered, "");
}

Outcome<void> write_file(const char* path, const std::string& text) {
  const Fd file(open(path, O_WRONLY | O_CLOEXEC));
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return failure("cannot write {}: {}", path, strerror(errno));
  }
  return {};
}

Outcome<void> enter_user_namespace() {
  const auto user = std::to_string(geteuid());
  const auto group = std::to_string(getegid());
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    const int error = errno;
    return failure(
        "cannot make a user namespace: {}. Run as root, or let users make them (sysctl "
        "kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, and on Ubuntu "
        "kernel.apparmor_restrict_unprivileged_userns=0).",
        strerror(error));
  }
  if (auto denied = write_file("/proc/self/setgroups", "deny"); !denied) return denied;
  if (auto mapped = write_file("/proc/self/uid_map", user + " " + user + " 1"); !mapped) return mapped;
  return write_file("/proc/self/gid_map", group + " " + group + " 1");
}

}  // namespace

Outcome<void> enter_mount_namespace() {
  if (unshare(CLONE_NEWNS) != 0) {
    if (errno != EPERM) return failure("cannot make a mount namespace: {}", strerror(errno));
    if (auto entered = enter_user_namespace(); !entered) return entered;
  }
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return failure("cannot make the mounts private: {}", strerror(errno));
  }
  return {};
}

Outcome<void> overlay(const Fd& server_root) {
  // Directories of a detached mount cannot be bound before Linux 6.15: attach it for a moment. Nobody else
  // is in this namespace yet.
  constexpr const char* kAttachAt = "/proc/self/task";  // any directory that surely exists
  if (move_mount(server_root.get(), "", AT_FDCWD, kAttachAt, MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return failure("cannot attach the file system of nodes: {}", strerror(errno));
  }
  auto result = overlay_dev(open_path(server_root, "dev"));
  if (result) result = overlay_sys(open_path(server_root, "sys"));
  umount2(kAttachAt, MNT_DETACH);
  return result;
}

}  // namespace uvfio::launcher
