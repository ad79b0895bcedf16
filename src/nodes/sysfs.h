// The sysfs trees of VFIO and the mdev bus.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "nodes/sysfs_builder.h"
#include "nodes/tree.h"
#include "uvfio/host.h"

namespace uvfio::nodes {

// Fills a directory that stands for /sys, as a kernel with the same parents, types and devices
// would. Told of changes by whoever listens to the core; telling it of a thing twice does no harm.
// Thread-safe.
class Sysfs {
 public:
  Sysfs(Host& host, std::shared_ptr<Directory> sys);

  void driver_registered(mdev::Driver& driver);
  void driver_unregistered(mdev::Driver& driver);
  void parent_registered(const std::shared_ptr<mdev::Parent>& parent);
  void parent_unregistered(const std::shared_ptr<mdev::Parent>& parent);
  void device_added(const std::shared_ptr<mdev::Device>& device);
  void device_removing(const std::shared_ptr<mdev::Device>& device);
  void device_removed(const std::shared_ptr<mdev::Device>& device);
  void group_added(const std::shared_ptr<vfio::Group>& group);
  void group_removed(const std::shared_ptr<vfio::Group>& group);

 private:
  struct DeviceNodes {
    Nodes until_removing;  // gone as soon as removal begins
    Nodes until_removed;   // there until the last user has gone
  };

  void make_bus();
  void add_type(SysfsBuilder& builder, const std::shared_ptr<mdev::Parent>& parent,
                const mdev::Type& type);
  void add_emulated_group(SysfsBuilder& builder, const std::shared_ptr<vfio::Group>& group);
  Status unbind(const std::string& driver, std::string_view text);
  [[nodiscard]] std::shared_ptr<mdev::Device> find_device(std::string_view text) const;

  template <typename Key, typename Value>
  Value take(std::map<Key, Value>& map, Key key);

  Host& host_;
  const std::shared_ptr<Directory> sys_;
  std::atomic<bool> autoprobe_{true};

  // Never held while nodes are removed: removal waits for attributes that are being written, which
  // may be on their way to here.
  std::mutex mutex_;
  std::map<const mdev::Driver*, Nodes> drivers_;
  std::map<const mdev::Parent*, Nodes> parents_;
  std::map<const mdev::Device*, DeviceNodes> devices_;
  std::map<const vfio::Group*, Nodes> groups_;
};

}  // namespace uvfio::nodes
