// The nodes door: a FUSE file system whose files are VFIO's device nodes and sysfs trees.
#pragma once

#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "uapi/caller.h"
#include "uvfio/attribute.h"
#include "uvfio/fd.h"
#include "uvfio/host.h"

namespace uvfio::nodes {

// What an open VFIO file of ours is.
using OpenFile =
    std::variant<std::monostate, std::shared_ptr<vfio::Container>, std::shared_ptr<vfio::GroupFile>,
                 std::shared_ptr<vfio::DeviceFile>, std::shared_ptr<vfio::MigrationStream>>;

// Serves one host to any number of processes. The file system is never attached to a path by this
// class: whoever wants to see it binds directories of root() where they belong:
//   dev/vfio                          /dev/vfio
//   sys/class/mdev_bus, ...           every directory below sys/ is one of /sys
class Server {
 public:
  struct Options {
    // Serve mmap of regions through FUSE passthrough; needs Linux 6.9 and CAP_SYS_ADMIN in the
    // initial user namespace. Where it is not to be had, regions lose VFIO_REGION_INFO_FLAG_MMAP.
    bool passthrough = true;
    unsigned max_threads = 64;
    // The machine's entries in directories that are shown in place of the machine's. Ours go first.
    struct Guest {
      std::string path;         // below root(), such as "sys/kernel/iommu_groups/3"
      std::string link_target;  // empty: an empty directory, to mount on
    };
    std::vector<Guest> guests{};
    // Files that are made when they are opened, readable by the owner of the server.
    struct File {
      std::string path;  // below root(), such as "sys/kernel/uvfio/state"
      std::function<std::string()> contents;
    };
    std::vector<File> files{};
    // Attributes, by directory below root().
    struct Attributes {
      std::string path;  // such as "sys/module/vfio_iommu_type1/parameters"
      std::vector<Attribute> attributes;
    };
    std::vector<Attributes> attributes{};
  };

  // Mounts and starts to serve, on threads of its own. Needs CAP_SYS_ADMIN in the user namespace
  // that owns the mount namespace. The error says what is missing and what to do about it.
  [[nodiscard]] static std::expected<std::unique_ptr<Server>, std::string> create(
      Host& host, const Options& options);
  // Unmounts; requests under way get ENOTCONN. The host must still exist.
  virtual ~Server() = default;

  // Directory of the detached mount (O_PATH). Use it with open_tree(2) and move_mount(2).
  [[nodiscard]] virtual const Fd& root() const = 0;
  [[nodiscard]] virtual bool passthrough() const = 0;

  // What is behind `fd`, a descriptor of this process; monostate when it is none of our files. Must
  // not be called from a thread that serves requests.
  [[nodiscard]] virtual OpenFile identify(const Fd& fd) = 0;

  // To be held while this process works for a client that does not wait for it when it is killed,
  // from before its files are looked at until none of them is held any more. `wanted`: does it
  // still wait? Called by any thread.
  [[nodiscard]] virtual std::shared_ptr<const void> errand(std::function<bool()> wanted) = 0;

  // A descriptor for an object of the core, ready to be handed to a client. The descriptor's last
  // close drops the object.
  [[nodiscard]] virtual Result<Fd> open_device(std::shared_ptr<vfio::DeviceFile> file) = 0;
  [[nodiscard]] virtual Result<Fd> open_stream(std::shared_ptr<vfio::MigrationStream> stream,
                                               bool readable) = 0;
};

}  // namespace uvfio::nodes
