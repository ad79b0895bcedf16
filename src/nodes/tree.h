// An in-memory tree of directories, links, attributes and device nodes, in the manner of kernfs.
// It knows no transport; fuse_server.h shows it to other processes.
#pragma once

#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "uvfio/attribute.h"
#include "uvfio/error.h"

namespace uvfio::nodes {

class Directory;

// What the state of an open file hangs on, by identity; null: nothing. What a request is answered
// may depend on closes of files that share either.
struct Ties {
  const void* group = nullptr;
  const void* container = nullptr;
  bool anything = false;  // it is not known with what

  [[nodiscard]] bool none() const { return group == nullptr && container == nullptr && !anything; }
  [[nodiscard]] bool shared_with(const Ties& other) const {
    return anything || other.anything || (group != nullptr && group == other.group) ||
           (container != nullptr && container == other.container);
  }
};

// One open of a device node. Thread-safe; dropped when the last reference to the open file is gone.
class OpenNode {
 public:
  virtual ~OpenNode() = default;

  // Errors for missing handlers as the kernel's VFS has them.
  [[nodiscard]] virtual Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data);
  [[nodiscard]] virtual Result<std::size_t> write(std::uint64_t position,
                                                  std::span<const std::byte> data);
  // `thread` is the client's thread, blocked in ioctl(2) until the answer is there.
  [[nodiscard]] virtual Result<int> ioctl(pid_t thread, std::uint32_t command, std::uint64_t arg);
  // Does this ioctl ask about other open files of ours while it runs? Such requests get a thread of
  // their own, because that question needs a free worker to answer it.
  [[nodiscard]] virtual bool asks_back(std::uint32_t command) const {
    static_cast<void>(command);
    return false;
  }
  // Does the answer depend on which other files have been closed before? FUSE does not wait for the
  // close of a file, so this has to be asked for (WorkerPool::settle).
  [[nodiscard]] virtual bool settled(std::uint32_t command) const {
    static_cast<void>(command);
    return false;
  }
  // The same of read and write.
  [[nodiscard]] virtual bool settled_data() const { return false; }
  // As they are now.
  [[nodiscard]] virtual Ties ties() const { return {}; }
};

enum class Kind { directory, link, attribute, device };

// What all nodes have in common. Removal is for good: a removed node fails with ENODEV and its name
// is not found any more, while those who still hold it are safe. Thread-safe.
class Node : public std::enable_shared_from_this<Node> {
 public:
  virtual ~Node() = default;
  Node(const Node&) = delete;

  [[nodiscard]] Kind kind() const { return kind_; }
  // Never used twice in this process.
  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  // nullptr for a root, and when the parent has gone.
  [[nodiscard]] std::shared_ptr<Directory> parent() const { return parent_.lock(); }
  [[nodiscard]] bool removed() const { return removed_.load(std::memory_order_acquire); }

  // Permission bits and owner, as chmod and chown left them.
  [[nodiscard]] unsigned mode() const { return mode_.load(std::memory_order_relaxed); }
  [[nodiscard]] uid_t uid() const { return uid_.load(std::memory_order_relaxed); }
  [[nodiscard]] gid_t gid() const { return gid_.load(std::memory_order_relaxed); }
  void set_mode(unsigned mode) { mode_.store(mode & 07777, std::memory_order_relaxed); }
  void set_uid(uid_t uid) { uid_.store(uid, std::memory_order_relaxed); }
  void set_gid(gid_t gid) { gid_.store(gid, std::memory_order_relaxed); }
  // When the node was made.
  [[nodiscard]] timespec born() const { return born_; }

  // Takes the node, and all that is below it, out of the tree. On return no attribute of it is
  // being read or written, except by the calling thread itself.
  void remove();

 protected:
  Node(Kind kind, std::string name, std::weak_ptr<Directory> parent, unsigned mode);

  // Both are called on each node of a removed subtree: first all `retire`, then all `drain`.
  virtual void retire(std::vector<std::shared_ptr<Node>>& all);
  virtual void drain() {}

 private:
  friend class Directory;
  const Kind kind_;
  const std::uint64_t id_;
  const std::string name_;
  const std::weak_ptr<Directory> parent_;
  const timespec born_;
  std::atomic<unsigned> mode_;
  // Who runs the server: root, or the one user that there is in an ordinary user's namespace.
  // (Root's nodes could not be opened for writing there, whatever their mode.)
  std::atomic<uid_t> uid_{geteuid()};
  std::atomic<gid_t> gid_{getegid()};
  std::atomic<bool> removed_{false};
};

// A symbolic link.
class Link final : public Node {
 public:
  Link(std::string name, std::weak_ptr<Directory> parent, std::string target)
      : Node(Kind::link, std::move(name), std::move(parent), 0777), target_(std::move(target)) {}
  [[nodiscard]] const std::string& target() const { return target_; }

 private:
  const std::string target_;
};

// A sysfs attribute. `slow` ones may take as long as a client likes (`remove` waits until the
// device is closed).
class AttributeNode final : public Node {
 public:
  AttributeNode(std::weak_ptr<Directory> parent, Attribute attribute, bool slow)
      : Node(Kind::attribute, attribute.name, std::move(parent), attribute.mode),
        attribute_(std::move(attribute)),
        slow_(slow) {}

  [[nodiscard]] bool slow() const { return slow_; }
  // ENODEV: removed. EIO: no such handler. Text beyond kMaxText is cut off.
  [[nodiscard]] Result<std::string> show();
  [[nodiscard]] Status store(std::string_view text);

  static constexpr std::size_t kMaxText = 4095;   // what one show can say
  static constexpr std::size_t kMaxStore = 4096;  // what one store is given

 private:
  class Activity;
  void drain() override;

  const Attribute attribute_;
  const bool slow_;
  std::mutex mutex_;
  std::condition_variable idle_;
  unsigned active_ = 0;
};

// A file whose opens do something.
class DeviceNode final : public Node {
 public:
  // `thread` is the client's thread that opens, `flags` are those of open(2).
  using Opener = std::function<Result<std::shared_ptr<OpenNode>>(pid_t thread, int flags)>;
  struct Traits {
    unsigned mode = 0600;
    std::uint64_t size = 0;  // st_size
    bool stream = false;     // no file position: pread is ESPIPE
    Ties ties{};             // opens depend on closes of what shares these, see OpenNode::settled
    int backing = 0;         // passthrough.h: id of the file that mmap shows; 0: none
  };

  DeviceNode(std::string name, std::weak_ptr<Directory> parent, const Traits& traits, Opener opener)
      : Node(Kind::device, std::move(name), std::move(parent), traits.mode),
        traits_(traits),
        opener_(std::move(opener)) {}

  [[nodiscard]] const Traits& traits() const { return traits_; }
  // ENXIO: removed.
  [[nodiscard]] Result<std::shared_ptr<OpenNode>> open(pid_t thread, int flags);

 private:
  const Traits traits_;
  const Opener opener_;
};

class Directory final : public Node {
 public:
  // A root has no name and no parent.
  [[nodiscard]] static std::shared_ptr<Directory> make_root();
  Directory(std::string name, std::weak_ptr<Directory> parent, unsigned mode)
      : Node(Kind::directory, std::move(name), std::move(parent), mode) {}

  // Each fails with EEXIST (the name is taken) or ENOENT (this directory has been removed).
  Result<std::shared_ptr<Directory>> add_directory(std::string name, unsigned mode = 0755);
  Result<std::shared_ptr<Link>> add_link(std::string name, std::string target);
  Result<std::shared_ptr<AttributeNode>> add_attribute(Attribute attribute, bool slow = false);
  Result<std::shared_ptr<DeviceNode>> add_device(std::string name, const DeviceNode::Traits& traits,
                                                 DeviceNode::Opener opener);
  // The directory at `path` below this one; makes what is missing. EEXIST: something else is there.
  Result<std::shared_ptr<Directory>> make_path(std::string_view path);

  // nullptr: no such name.
  [[nodiscard]] std::shared_ptr<Node> lookup(const std::string& name) const;
  [[nodiscard]] std::shared_ptr<Node> lookup_path(std::string_view path) const;
  [[nodiscard]] std::vector<std::shared_ptr<Node>> list() const;
  [[nodiscard]] unsigned subdirectories() const;

  // Called before each lookup and list: for directories that mirror something without events.
  void set_refresh(std::function<void(Directory&)> refresh);

 private:
  friend class Node;
  template <typename T>
  Result<std::shared_ptr<T>> add(std::shared_ptr<T> node);
  void retire(std::vector<std::shared_ptr<Node>>& all) override;
  void refresh() const;

  mutable std::shared_mutex mutex_;
  std::map<std::string, std::shared_ptr<Node>> children_;
  std::shared_ptr<const std::function<void(Directory&)>> refresh_;
};

// A relative link from a link that stands in directory `from` to `to`, both paths below one root:
// ("class/mdev_bus", "devices/virtual/mtty/mtty") is "../../devices/virtual/mtty/mtty".
[[nodiscard]] std::string relative_target(std::string_view from, std::string_view to);

}  // namespace uvfio::nodes
