// Nodes that the kernel knows by number.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <utility>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include "nodes/tree.h"

namespace uvfio::nodes {

// Keeps a node for as long as the kernel may ask about it: from its LOOKUPs to as many FORGETs.
// Thread-safe.
class NodeTable {
 public:
  explicit NodeTable(std::shared_ptr<Directory> root) : root_(std::move(root)) {}

  [[nodiscard]] fuse_ino_t number(const Node& node) const { return number(node.id()); }
  [[nodiscard]] fuse_ino_t number(std::uint64_t id) const {
    return id == root_->id() ? FUSE_ROOT_ID : id;
  }

  // nullptr: unknown.
  [[nodiscard]] std::shared_ptr<Node> find(fuse_ino_t number) const {
    if (number == FUSE_ROOT_ID) {
      return root_;
    }
    const std::shared_lock lock(mutex_);
    const auto it = known_.find(number);
    return it == known_.end() ? nullptr : it->second.node;
  }
  void remember(const std::shared_ptr<Node>& node) {
    const std::unique_lock lock(mutex_);
    Known& known = known_[node->id()];
    known.node = node;
    ++known.lookups;
  }
  void forget(fuse_ino_t number, std::uint64_t lookups) {
    std::shared_ptr<Node> last;  // goes after the lock
    const std::unique_lock lock(mutex_);
    const auto it = known_.find(number);
    if (it == known_.end()) {
      return;
    }
    if (it->second.lookups > lookups) {
      it->second.lookups -= lookups;
      return;
    }
    last = std::move(it->second.node);
    known_.erase(it);
  }

 private:
  struct Known {
    std::shared_ptr<Node> node;
    std::uint64_t lookups = 0;
  };
  const std::shared_ptr<Directory> root_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<fuse_ino_t, Known> known_;
};

}  // namespace uvfio::nodes
