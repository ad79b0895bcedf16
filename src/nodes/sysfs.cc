#include "nodes/sysfs.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <utility>

namespace uvfio::nodes {
namespace {

std::string line(std::string text) {
  if (!text.ends_with('\n')) {
    text.push_back('\n');
  }
  return text;
}

std::string base_name(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

std::string device_path(const mdev::Device& device) {
  return device.parent().info().sysfs_path + "/" + device.name();
}

}  // namespace

Sysfs::Sysfs(Host& host, std::shared_ptr<Directory> sys) : host_(host), sys_(std::move(sys)) {
  for (const char* path : {"class/mdev_bus", "class/vfio", "class/vfio-dev", "kernel/iommu_groups",
                           "devices/virtual"}) {
    static_cast<void>(sys_->make_path(path));
  }
  make_bus();
}

void Sysfs::make_bus() {
  Nodes forever;
  SysfsBuilder builder(sys_, forever);
  const auto bus = builder.directory("bus/mdev");
  builder.directory("bus/mdev/devices");
  builder.directory("bus/mdev/drivers");
  builder.attribute(
      *bus, {.name = "drivers_autoprobe",
             .mode = 0644,
             .show = [this]() -> Result<std::string> { return autoprobe_.load() ? "1\n" : "0\n"; },
             .store = [this](std::string_view text) -> Status {
               autoprobe_ = !text.starts_with('0');
               return {};
             }});
  builder.attribute(*bus, write_only("drivers_probe", [this](std::string_view text) -> Status {
    // A device that exists has its driver: mdev never matches by itself.
    return find_device(text) ? Status() : fail(ENODEV);
  }));
  builder.attribute(*bus, write_only("uevent", store_uevent));
}

std::shared_ptr<mdev::Device> Sysfs::find_device(std::string_view text) const {
  const auto uuid = Uuid::parse(without_newline(text));
  return uuid ? host_.mdev().find(*uuid) : nullptr;
}

template <typename Key, typename Value>
Value Sysfs::take(std::map<Key, Value>& map, Key key) {
  const std::lock_guard lock(mutex_);
  Value value{};
  if (const auto it = map.find(key); it != map.end()) {
    value = std::move(it->second);
    map.erase(it);
  }
  return value;
}

Status Sysfs::unbind(const std::string& driver, std::string_view text) {
  const auto device = find_device(text);
  if (!device || device->parent().driver().name() != driver) {
    return fail(ENODEV);
  }
  // The core has no mediated device without a driver: remove it, or keep it.
  spdlog::warn("nodes: {} cannot be unbound from {}: write 1 to its `remove` instead",
               device->name(), driver);
  return fail(EOPNOTSUPP);
}

void Sysfs::driver_registered(mdev::Driver& driver) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = drivers_.try_emplace(&driver);
  if (!added) {
    return;
  }
  SysfsBuilder builder(sys_, it->second);
  const auto directory = builder.directory("bus/mdev/drivers/" + driver.name());
  // A driver never matches a device by itself (mdev_match), so that `bind` finds nothing.
  builder.attribute(*directory,
                    write_only("bind", [](std::string_view) -> Status { return fail(ENODEV); }));
  builder.attribute(*directory,
                    write_only("unbind", [this, name = driver.name()](
                                             std::string_view text) { return unbind(name, text); }),
                    true);
  builder.attribute(*directory, write_only("uevent", store_uevent));
}

void Sysfs::driver_unregistered(mdev::Driver& driver) {
  remove_nodes(take(drivers_, static_cast<const mdev::Driver*>(&driver)));
}

void Sysfs::add_type(SysfsBuilder& builder, const std::shared_ptr<mdev::Parent>& parent,
                     const mdev::Type& type) {
  const std::string id = parent->type_id(type);
  const std::string path = parent->info().sysfs_path + "/mdev_supported_types/" + id;
  const auto directory = builder.directory(path);
  builder.attribute(*directory,
                    constant("name", line(type.pretty_name.empty() ? id : type.pretty_name)));
  builder.attribute(*directory, constant("device_api", line(parent->driver().device_api())));
  builder.attribute(*directory, {.name = "available_instances",
                                 .mode = 0444,
                                 .show = [parent, &type]() -> Result<std::string> {
                                   return fmt::format("{}\n", parent->available_instances(type));
                                 },
                                 .store = {}});
  if (parent->driver().show_description(type)) {
    builder.attribute(*directory,
                      {.name = "description",
                       .mode = 0444,
                       .show = [parent, &type]() -> Result<std::string> {
                         return line(parent->driver().show_description(type).value_or(""));
                       },
                       .store = {}});
  }
  // Slow: probe may take its time.
  builder.attribute(*directory,
                    write_only("create",
                               [this, parent, &type](std::string_view text) {
                                 return host_.mdev().store_create(parent, type, text);
                               }),
                    true);
  builder.directory(path + "/devices");
}

void Sysfs::parent_registered(const std::shared_ptr<mdev::Parent>& parent) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = parents_.try_emplace(parent.get());
  if (!added) {
    return;
  }
  const mdev::ParentInfo& info = parent->info();
  SysfsBuilder builder(sys_, it->second);
  const auto directory = builder.directory(info.sysfs_path);
  builder.attribute(*directory, uevent(""));
  if (!info.class_name.empty()) {
    builder.link(info.sysfs_path, "subsystem", "class/" + info.class_name);
    builder.link("class/" + info.class_name, info.name, info.sysfs_path);
  }
  builder.attributes(info.sysfs_path, info.attributes);
  builder.directory(info.sysfs_path + "/mdev_supported_types");
  for (const mdev::Type& type : parent->types()) {
    add_type(builder, parent, type);
  }
  builder.link("class/mdev_bus", info.name, info.sysfs_path);
}

void Sysfs::parent_unregistered(const std::shared_ptr<mdev::Parent>& parent) {
  remove_nodes(take(parents_, static_cast<const mdev::Parent*>(parent.get())));
}

void Sysfs::device_added(const std::shared_ptr<mdev::Device>& device) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = devices_.try_emplace(device.get());
  if (!added) {
    return;
  }
  const mdev::Parent& parent = device->parent();
  const std::string path = device_path(*device);
  const std::string driver = "bus/mdev/drivers/" + parent.driver().name();
  const std::string type =
      parent.info().sysfs_path + "/mdev_supported_types/" + parent.type_id(device->type());

  SysfsBuilder late(sys_, it->second.until_removed);
  const auto directory = late.directory(path);
  late.link(path, "driver", driver);
  late.link(driver, device->name(), path);
  SysfsBuilder early(sys_, it->second.until_removing);
  if (const auto& vfio = device->vfio_device()) {
    late.link(path, "iommu_group", "kernel/iommu_groups/" + std::to_string(vfio->group().id()));
    const std::string name = fmt::format("vfio{}", vfio->index());
    const std::string class_device = path + "/vfio-dev/" + name;
    early.directory(path + "/vfio-dev");
    const auto in = early.directory(class_device);
    early.link(class_device, "device", path);
    early.link(class_device, "subsystem", "class/vfio-dev");
    early.attribute(*in, uevent(""));
    early.link("class/vfio-dev", name, class_device);
  }
  early.link(path, "subsystem", "bus/mdev");
  early.link("bus/mdev/devices", device->name(), path);
  early.link(path, "mdev_type", type);
  early.link(type + "/devices", device->name(), path);
  early.attribute(*directory, uevent(fmt::format("DRIVER={}\n", parent.driver().name())));
  early.attributes(path, device->attributes);
  // Weak: the attribute does not keep the device on which the parent counts.
  early.attribute(*directory,
                  write_only("remove",
                             [this, weak = std::weak_ptr(device)](std::string_view text) -> Status {
                               const auto target = weak.lock();
                               return target ? host_.mdev().store_remove(target, text)
                                             : fail(ENODEV);
                             }),
                  true);
}

void Sysfs::device_removing(const std::shared_ptr<mdev::Device>& device) {
  Nodes nodes;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = devices_.find(device.get()); it != devices_.end()) {
      nodes.swap(it->second.until_removing);
    }
  }
  remove_nodes(std::move(nodes));
}

void Sysfs::device_removed(const std::shared_ptr<mdev::Device>& device) {
  DeviceNodes nodes = take(devices_, static_cast<const mdev::Device*>(device.get()));
  remove_nodes(std::move(nodes.until_removing));
  remove_nodes(std::move(nodes.until_removed));
}

void Sysfs::add_emulated_group(SysfsBuilder& builder, const std::shared_ptr<vfio::Group>& group) {
  const std::string path = "kernel/iommu_groups/" + std::to_string(group->id());
  const auto directory = builder.directory(path);
  builder.attribute(*directory, constant("name", "vfio-noiommu\n"));
  builder.attribute(*directory, constant("reserved_regions", ""));
  Attribute type = constant("type", "unknown\n", 0644);
  type.store = [](std::string_view) -> Status { return fail(EINVAL); };
  builder.attribute(*directory, std::move(type));

  // Devices join and leave a group without an event, so the links are looked after when looked at.
  const auto devices = builder.directory(path + "/devices");
  struct Shown {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<Link>> links;
  };
  devices->set_refresh([weak = std::weak_ptr(group), in = path + "/devices",
                        shown = std::make_shared<Shown>()](Directory& target) {
    const auto members = weak.lock();
    const std::lock_guard inner(shown->mutex);
    std::set<std::string> names;
    for (const auto& device : members ? members->devices() : decltype(members->devices())()) {
      const std::string name = base_name(device->sysfs_path());
      names.insert(name);
      if (shown->links.contains(name)) {
        continue;
      }
      if (auto link = target.add_link(name, relative_target(in, device->sysfs_path()))) {
        shown->links.emplace(name, std::move(*link));
      }
    }
    std::erase_if(shown->links, [&](const auto& entry) {
      if (names.contains(entry.first)) {
        return false;
      }
      entry.second->remove();
      return true;
    });
  });
}

void Sysfs::group_added(const std::shared_ptr<vfio::Group>& group) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = groups_.try_emplace(group.get());
  if (!added) {
    return;
  }
  const std::string id = std::to_string(group->id());
  SysfsBuilder builder(sys_, it->second);
  // The bus of real devices shows their IOMMU groups, which are there without VFIO.
  if (group->type() == iommu::GroupType::emulated) add_emulated_group(builder, group);

  // The class device of the group's node. There is no `dev`: the node is no character device, and a
  // number would name somebody else's.
  const std::string class_device = "devices/virtual/vfio/" + id;
  const auto in = builder.directory(class_device);
  builder.link(class_device, "subsystem", "class/vfio");
  builder.attribute(*in, uevent(fmt::format("DEVNAME=vfio/{}\n", id)));
  builder.link("class/vfio", id, class_device);
}

void Sysfs::group_removed(const std::shared_ptr<vfio::Group>& group) {
  remove_nodes(take(groups_, static_cast<const vfio::Group*>(group.get())));
}

}  // namespace uvfio::nodes
