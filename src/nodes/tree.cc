#include "nodes/tree.h"

#include <algorithm>
#include <ctime>

namespace uvfio::nodes {
namespace {

std::uint64_t next_id() {
  // 1 is FUSE's name for the root, whatever the root's own id is.
  static std::atomic<std::uint64_t> next{2};
  return next.fetch_add(1, std::memory_order_relaxed);
}

timespec now() {
  timespec time{};
  clock_gettime(CLOCK_REALTIME_COARSE, &time);
  return time;
}

// The attributes whose handlers this thread is inside of. A handler may remove its own attribute
// (`remove` does), so the drain must not wait for the thread that drains.
thread_local std::vector<const AttributeNode*> inside;

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (!part.empty()) {
      parts.push_back(part);
    }
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
  }
  return parts;
}

}  // namespace

Result<std::size_t> OpenNode::read(std::uint64_t, std::span<std::byte>) { return fail(EINVAL); }
Result<std::size_t> OpenNode::write(std::uint64_t, std::span<const std::byte>) {
  return fail(EINVAL);
}
Result<int> OpenNode::ioctl(pid_t, std::uint32_t, std::uint64_t) { return fail(ENOTTY); }

Node::Node(Kind kind, std::string name, std::weak_ptr<Directory> parent, unsigned mode)
    : kind_(kind),
      id_(next_id()),
      name_(std::move(name)),
      parent_(std::move(parent)),
      born_(now()),
      mode_(mode) {}

void Node::retire(std::vector<std::shared_ptr<Node>>& all) {
  removed_.store(true, std::memory_order_release);
  all.push_back(shared_from_this());
}

void Node::remove() {
  const std::shared_ptr<Node> self = shared_from_this();
  if (const std::shared_ptr<Directory> parent = parent_.lock()) {
    const std::unique_lock lock(parent->mutex_);
    // Somebody else may have removed this node already and put another one in its place.
    if (const auto it = parent->children_.find(name_);
        it != parent->children_.end() && it->second == self) {
      parent->children_.erase(it);
    }
  }
  std::vector<std::shared_ptr<Node>> all;
  retire(all);
  for (const auto& node : all) {
    node->drain();
  }
}

class AttributeNode::Activity {
 public:
  explicit Activity(AttributeNode& node) : node_(node) {
    const std::lock_guard lock(node_.mutex_);
    if (node_.removed()) {
      return;
    }
    inside.push_back(&node_);
    ++node_.active_;
    entered_ = true;
  }
  ~Activity() {
    if (!entered_) {
      return;
    }
    inside.pop_back();
    const std::lock_guard lock(node_.mutex_);
    --node_.active_;
    node_.idle_.notify_all();
  }
  Activity(const Activity&) = delete;
  explicit operator bool() const { return entered_; }

 private:
  AttributeNode& node_;
  bool entered_ = false;
};

Result<std::string> AttributeNode::show() {
  const Activity activity(*this);
  if (!activity) {
    return fail(ENODEV);
  }
  if (!attribute_.show) {
    return fail(EIO);
  }
  Result<std::string> text = attribute_.show();
  if (text && text->size() > kMaxText) {
    text->resize(kMaxText);
  }
  return text;
}

Status AttributeNode::store(std::string_view text) {
  const Activity activity(*this);
  if (!activity) {
    return fail(ENODEV);
  }
  if (!attribute_.store) {
    return fail(EIO);
  }
  return attribute_.store(text);
}

void AttributeNode::drain() {
  std::unique_lock lock(mutex_);
  const auto own = static_cast<unsigned>(std::ranges::count(inside, this));
  idle_.wait(lock, [&] { return active_ <= own; });
}

Result<std::shared_ptr<OpenNode>> DeviceNode::open(pid_t thread, int flags) {
  if (removed()) {
    return fail(ENXIO);
  }
  return opener_(thread, flags);
}

std::shared_ptr<Directory> Directory::make_root() {
  return std::make_shared<Directory>("", std::weak_ptr<Directory>(), 0755);
}

template <typename T>
Result<std::shared_ptr<T>> Directory::add(std::shared_ptr<T> node) {
  const std::unique_lock lock(mutex_);
  if (removed()) {
    return fail(ENOENT);
  }
  if (!children_.emplace(node->name(), node).second) {
    return fail(EEXIST);
  }
  return node;
}

Result<std::shared_ptr<Directory>> Directory::add_directory(std::string name, unsigned mode) {
  return add(std::make_shared<Directory>(
      std::move(name), std::static_pointer_cast<Directory>(shared_from_this()), mode));
}

Result<std::shared_ptr<Link>> Directory::add_link(std::string name, std::string target) {
  return add(std::make_shared<Link>(
      std::move(name), std::static_pointer_cast<Directory>(shared_from_this()), std::move(target)));
}

Result<std::shared_ptr<AttributeNode>> Directory::add_attribute(Attribute attribute, bool slow) {
  return add(std::make_shared<AttributeNode>(
      std::static_pointer_cast<Directory>(shared_from_this()), std::move(attribute), slow));
}

Result<std::shared_ptr<DeviceNode>> Directory::add_device(std::string name,
                                                          const DeviceNode::Traits& traits,
                                                          DeviceNode::Opener opener) {
  return add(std::make_shared<DeviceNode>(std::move(name),
                                          std::static_pointer_cast<Directory>(shared_from_this()),
                                          traits, std::move(opener)));
}

Result<std::shared_ptr<Directory>> Directory::make_path(std::string_view path) {
  auto directory = std::static_pointer_cast<Directory>(shared_from_this());
  for (const std::string_view part : split(path)) {
    const std::string name(part);
    if (auto made = directory->add_directory(name)) {
      directory = *made;
      continue;
    } else if (made.error() != Errno{EEXIST}) {
      return made;
    }
    const std::shared_ptr<Node> node = directory->lookup(name);
    if (!node || node->kind() != Kind::directory) {
      return fail(EEXIST);
    }
    directory = std::static_pointer_cast<Directory>(node);
  }
  return directory;
}

std::shared_ptr<Node> Directory::lookup(const std::string& name) const {
  refresh();
  const std::shared_lock lock(mutex_);
  const auto it = children_.find(name);
  return it == children_.end() ? nullptr : it->second;
}

std::shared_ptr<Node> Directory::lookup_path(std::string_view path) const {
  auto node = std::const_pointer_cast<Node>(shared_from_this());
  for (const std::string_view part : split(path)) {
    if (node->kind() != Kind::directory) {
      return nullptr;
    }
    node = static_cast<const Directory&>(*node).lookup(std::string(part));
    if (!node) {
      return nullptr;
    }
  }
  return node;
}

std::vector<std::shared_ptr<Node>> Directory::list() const {
  refresh();
  const std::shared_lock lock(mutex_);
  std::vector<std::shared_ptr<Node>> nodes;
  nodes.reserve(children_.size());
  for (const auto& [name, node] : children_) {
    nodes.push_back(node);
  }
  return nodes;
}

unsigned Directory::subdirectories() const {
  const std::shared_lock lock(mutex_);
  return static_cast<unsigned>(std::ranges::count_if(
      children_, [](const auto& child) { return child.second->kind() == Kind::directory; }));
}

void Directory::set_refresh(std::function<void(Directory&)> refresh) {
  const std::unique_lock lock(mutex_);
  refresh_ = std::make_shared<const std::function<void(Directory&)>>(std::move(refresh));
}

void Directory::refresh() const {
  std::shared_ptr<const std::function<void(Directory&)>> refresh;
  {
    const std::shared_lock lock(mutex_);
    refresh = refresh_;
  }
  if (refresh && !removed()) {
    (*refresh)(const_cast<Directory&>(*this));
  }
}

void Directory::retire(std::vector<std::shared_ptr<Node>>& all) {
  std::map<std::string, std::shared_ptr<Node>> children;
  {
    const std::unique_lock lock(mutex_);
    Node::retire(all);
    children.swap(children_);
    refresh_.reset();
  }
  for (const auto& [name, node] : children) {
    node->retire(all);
  }
}

std::string relative_target(std::string_view from, std::string_view to) {
  const std::vector<std::string_view> source = split(from);
  const std::vector<std::string_view> target = split(to);
  // As sysfs does it: up to a directory that properly contains the target, even where the link
  // stands inside of its target.
  std::size_t common = 0;
  while (common < source.size() && common + 1 < target.size() && source[common] == target[common]) {
    ++common;
  }
  std::string text;
  for (std::size_t i = common; i < source.size(); ++i) {
    text += "../";
  }
  for (std::size_t i = common; i < target.size(); ++i) {
    text.append(target[i]).push_back('/');
  }
  if (!text.empty()) {
    text.pop_back();
  }
  return text;
}

}  // namespace uvfio::nodes
