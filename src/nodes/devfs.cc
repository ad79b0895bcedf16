#include "nodes/devfs.h"

#include <spdlog/spdlog.h>

#include "nodes/open_vfio.h"

namespace uvfio::nodes {

Devfs::Devfs(vfio::Vfio& vfio, Clients& clients, std::shared_ptr<Directory> directory)
    : clients_(clients), directory_(std::move(directory)) {
  const auto opener = [&vfio, &clients](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
    return std::make_shared<OpenContainer>(clients, vfio.open_container());
  };
  static_cast<void>(directory_->add_device("vfio", {.mode = 0666}, opener));
}

void Devfs::group_added(const std::shared_ptr<vfio::Group>& group) {
  const auto opener = [this, weak = std::weak_ptr(group)](
                          pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
    const auto target = weak.lock();
    if (!target) {
      return fail(ENODEV);
    }
    auto file = target->open();
    if (!file && file.error() == Errno{EBUSY}) {
      clients_.server.settle_errands({.group = target.get()});
      file = target->open();
    }
    if (!file) {
      return std::unexpected(file.error());
    }
    return std::make_shared<OpenGroup>(clients_, std::move(*file));
  };
  const std::lock_guard lock(mutex_);
  if (groups_.contains(group.get())) {
    return;
  }
  auto node = directory_->add_device(group->node_name(),
                                     {.mode = 0600, .ties = {.group = group.get()}}, opener);
  if (!node) {
    spdlog::error("nodes: /dev/vfio/{} is there already", group->node_name());
    return;
  }
  groups_.emplace(group.get(), std::move(*node));
}

void Devfs::group_removed(const std::shared_ptr<vfio::Group>& group) {
  std::shared_ptr<Node> node;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = groups_.find(group.get()); it != groups_.end()) {
      node = std::move(it->second);
      groups_.erase(it);
    }
  }
  if (node) {
    node->remove();
  }
}

}  // namespace uvfio::nodes
