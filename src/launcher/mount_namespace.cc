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
#include <climits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace uvfio::launcher {
namespace {

// See MachineEntry. A new mediated device or PCI function adds an entry to each of them but
// mdev_bus, where parents are, and drivers, whose directories list devices.
constexpr std::array<std::string_view, 6> kLive{
    "bus/mdev/devices", "bus/pci/devices", "bus/pci/drivers",
    "class/mdev_bus",   "class/vfio-dev",  "kernel/iommu_groups",
};

bool is_live(std::string_view path) {
  return std::ranges::find(kLive, path) != kLive.end() ||
         (path.starts_with("devices/pci") && path.find('/', sizeof "devices") == path.npos);
}

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
    struct stat status {};
    if (type == DT_UNKNOWN && fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
      type = static_cast<unsigned char>(IFTODT(status.st_mode));
    }
    entries.emplace(name, type);
  }
  return entries;
}

// Directory `name` below `directory`; no Fd if there is none.
Fd open_path(const Fd& directory, const std::string& name) {
  return Fd(openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}
Fd open_path(const char* path) { return Fd(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)); }

std::optional<std::string> link_target(const Fd& directory, const std::string& name) {
  std::array<char, PATH_MAX> target{};
  const ssize_t size = readlinkat(directory.get(), name.c_str(), target.data(), target.size());
  if (size < 0) return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(size));
}

// Mounts entry `name` of `from` on the same name in `to`, which exists.
Outcome<void> bind(const Fd& from, const std::string& name, const Fd& to) {
  // Recursively: in a user namespace a mount may not be shown without what is mounted below it.
  const Fd tree(
      open_tree(from.get(), name.c_str(),
                OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW));
  if (!tree || move_mount(tree.get(), "", to.get(), name.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return failure("cannot bind {}: {}", name, strerror(errno));
  }
  return {};
}

// Shows entry `name` of `from` under the same name in `to`, whatever it is.
Outcome<void> show(const Fd& from, const std::string& name, unsigned char type, const Fd& to) {
  if (type == DT_LNK) {
    const auto target = link_target(from, name);
    if (!target || symlinkat(target->c_str(), to.get(), name.c_str()) != 0) {
      return failure("cannot copy the link {}: {}", name, strerror(errno));
    }
    return {};
  }
  if (type == DT_DIR) {
    if (mkdirat(to.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
      return failure("cannot make the directory {}: {}", name, strerror(errno));
    }
  } else {
    const Fd file(openat(to.get(), name.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    if (!file) return failure("cannot make the file {}: {}", name, strerror(errno));
  }
  return bind(from, name, to);
}

// The machine's directories in a live directory: each on the place that the server has lent it.
void show_in_live_directory(const Fd& machine, const Fd& live) {
  const Entries places = entries_of(live);
  for (const auto& [name, type] : entries_of(machine)) {
    const auto place = places.find(name);
    if (type != DT_DIR || place == places.end() || place->second != DT_DIR) continue;
    if (!entries_of(open_path(live, name)).empty()) continue;  // not lent: one of ours
    static_cast<void>(bind(machine, name, live));              // as in merge()
  }
}

// Fills `to`, empty, with what `machine` has and what `server` has in their directory `path`.
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
    const auto found = theirs.find(name);
    const bool both = type == DT_DIR && found != theirs.end() && found->second == DT_DIR;
    const Fd machine_below = both ? open_path(machine, name) : Fd();
    if (!both || is_live(below) || entries_of(machine_below).empty()) {
      if (auto shown = show(server, name, type, to); !shown) return shown;
      if (both) show_in_live_directory(machine_below, open_path(to, name));
      continue;
    }
    if (mkdirat(to.get(), name.c_str(), 0755) != 0) {
      return failure("cannot make the directory {}: {}", below, strerror(errno));
    }
    auto merged = merge(machine_below, open_path(server, name), open_path(to, name), below);
    if (!merged) return merged;
  }
  return {};
}

// Covers `path` with an empty file system and returns its root. Its mode: with the default of 1777
// a root shell could not write to the files of others that are bound into it
// (fs.protected_regular).
Outcome<Fd> cover(const char* path) {
  if (mount("uvfio", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755") != 0) {
    return failure("cannot mount over {}: {}", path, strerror(errno));
  }
  return open_path(path);
}

// A detached mount in a directory of its own in `place`, because before Linux 6.15 only what is
// attached can be bound elsewhere.
class Attachment {
 public:
  [[nodiscard]] static Outcome<Attachment> make(const Fd& mount, std::string place) {
    if (mkdir(place.c_str(), 0700) != 0 ||
        move_mount(mount.get(), "", AT_FDCWD, place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      return failure("cannot attach the file system of nodes: {}", strerror(errno));
    }
    return Attachment(std::move(place));
  }
  Attachment(Attachment&& other) noexcept : place_(std::exchange(other.place_, {})) {}
  ~Attachment() {
    if (place_.empty()) return;
    umount2(place_.c_str(), MNT_DETACH);
    rmdir(place_.c_str());
  }

 private:
  explicit Attachment(std::string place) : place_(std::move(place)) {}
  std::string place_;
};

Outcome<void> overlay_dev(const Fd& server_dev) {
  const Fd machine = open_path("/dev");
  if (open_path(machine, "vfio")) return bind(server_dev, "vfio", machine);
  const auto covered = cover("/dev");
  if (!covered) return std::unexpected(covered.error());
  return merge(machine, server_dev, *covered, "");
}

Outcome<void> write_file(const char* path, const std::string& text) {
  const Fd file(open(path, O_WRONLY | O_CLOEXEC));
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return failure("cannot write {}: {}", path, strerror(errno));
  }
  return {};
}

constexpr std::string_view kLetUsersMakeNamespaces =
    "Run as root, or let users make namespaces (sysctl user.max_user_namespaces above 0; on Debian "
    "kernel.unprivileged_userns_clone=1; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0; "
    "in a container give it CAP_SYS_ADMIN).";

Outcome<void> enter_user_namespace() {
  const auto user = std::to_string(geteuid());
  const auto group = std::to_string(getegid());
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return failure("cannot make a user namespace: {}. {}", strerror(errno),
                   kLetUsersMakeNamespaces);
  }
  if (auto denied = write_file("/proc/self/setgroups", "deny"); !denied) return denied;
  if (auto mapped = write_file("/proc/self/uid_map", user + " " + user + " 1"); !mapped) {
    return mapped;
  }
  return write_file("/proc/self/gid_map", group + " " + group + " 1");
}

}  // namespace

Outcome<void> enter_mount_namespace() {
  if (unshare(CLONE_NEWNS) != 0) {
    if (errno != EPERM) return failure("cannot make a mount namespace: {}", strerror(errno));
    if (auto entered = enter_user_namespace(); !entered) return entered;
  }
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    if (errno == EINVAL) {
      return failure(
          "cannot make the mounts private: the root directory is not a mount point, as in a "
          "chroot. Make it one first: mount --rbind DIRECTORY DIRECTORY && chroot DIRECTORY");
    }
    // Where a security module lets a namespace be made but gives no rights in it, this is the first
    // to fail.
    return failure("cannot make the mounts private: {}. {}", strerror(errno),
                   kLetUsersMakeNamespaces);
  }
  return {};
}

Outcome<void> overlay(const Fd& server_root) {
  const Fd machine_sys = open_path("/sys");
  const auto sys = cover("/sys");
  if (!sys) return std::unexpected(sys.error());
  const auto attachment = Attachment::make(server_root, "/sys/.uvfio");
  if (!attachment) return std::unexpected(attachment.error());
  auto merged = merge(machine_sys, open_path(server_root, "sys"), *sys, "");
  if (!merged) return merged;
  return overlay_dev(open_path(server_root, "dev"));
}

std::vector<MachineEntry> machine_entries(const std::set<std::string>& roots) {
  std::set<std::string> paths(kLive.begin(), kLive.end());
  paths.insert(roots.begin(), roots.end());
  std::vector<MachineEntry> all;
  for (const std::string& path : paths) {
    const Fd directory = open_path(("/sys/" + path).c_str());
    for (const auto& [name, type] : entries_of(directory)) {
      const auto target = type == DT_LNK ? link_target(directory, name) : std::nullopt;
      if (type != DT_DIR && !target) continue;
      all.push_back({.path = path + "/" + name, .link_target = target.value_or("")});
    }
  }
  return all;
}

}  // namespace uvfio::launcher
