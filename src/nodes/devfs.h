// /dev/vfio: the container's node and one for each group.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "nodes/process_caller.h"
#include "nodes/tree.h"
#include "uvfio/vfio.h"

namespace uvfio::nodes {

// Fills one directory. Told of groups by whoever listens to the core. Thread-safe.
class Devfs {
 public:
  Devfs(vfio::Vfio& vfio, Clients& clients, std::shared_ptr<Directory> directory);

  void group_added(const std::shared_ptr<vfio::Group>& group);
  void group_removed(const std::shared_ptr<vfio::Group>& group);

 private:
  Clients& clients_;
  const std::shared_ptr<Directory> directory_;
  std::mutex mutex_;
  std::map<const vfio::Group*, std::shared_ptr<Node>> groups_;
};

}  // namespace uvfio::nodes
