#include "nodes/sysfs_pci.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/number.h"
#include "nodes/pci_attributes.h"
#include "pci/function.h"

namespace uvfio::nodes {
namespace {

std::string driver_path(const std::string& name) { return "bus/pci/drivers/" + name; }

std::string group_path(const iommu::IommuGroup& group) {
  return "kernel/iommu_groups/" + std::to_string(group.id());
}

std::string reserved_regions(const iommu::IommuGroup& group) {
  std::string text;
  for (const auto& region : group.reserved()) {
    text += fmt::format("0x{:016x} 0x{:016x} {}\n", region.first, region.last,
                        iommu::name_of(region.kind));
  }
  return text;
}

}  // namespace

SysfsPci::SysfsPci(Host& host, std::shared_ptr<Directory> sys) : host_(host), sys_(std::move(sys)) {
  make_bus();
  make_modules();
}

void SysfsPci::make_bus() {
  Nodes forever;
  SysfsBuilder builder(sys_, forever);
  const auto bus = builder.directory("bus/pci");
  builder.directory("bus/pci/devices");
  builder.directory("bus/pci/drivers");
  auto& pci = host_.pci();
  builder.attribute(
      *bus, {.name = "drivers_autoprobe",
             .mode = 0644,
             .show = [&pci]() -> Result<std::string> { return pci.autoprobe() ? "1\n" : "0\n"; },
             .store = [&pci](std::string_view text) -> Status {
               pci.set_autoprobe(!text.starts_with('0'));
               return {};
             }});
  builder.attribute(*bus,
                    write_only("drivers_probe",
                               [&pci](std::string_view text) { return pci.drivers_probe(text); }),
                    true);
  builder.attribute(*bus, write_only("rescan", [&pci](std::string_view text) -> Status {
    const auto number = parse_unsigned(text);
    if (!number) return fail(EINVAL);
    if (*number != 0) pci.rescan();
    return {};
  }));
  builder.attribute(*bus, write_only("uevent", store_uevent));
}

// By these, programs tell whether VFIO is there (DPDK: rte_eal_check_module).
void SysfsPci::make_modules() {
  Nodes forever;
  SysfsBuilder builder(sys_, forever);
  for (const char* name : {"vfio", "vfio_iommu_type1", "vfio_pci", "vfio_pci_core"}) {
    const auto directory = builder.directory(std::string("module/") + name);
    builder.attribute(*directory, constant("initstate", "live\n"));
  }
}

void SysfsPci::driver_registered(pci::Driver& driver) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = drivers_.try_emplace(&driver);
  if (!added) return;
  SysfsBuilder builder(sys_, it->second);
  const std::string path = driver_path(driver.name());
  const auto directory = builder.directory(path);
  auto& pci = host_.pci();
  using Store = Status (pci::Bus::*)(pci::Driver&, std::string_view);
  struct Entry {
    const char* name;
    Store store;
  };
  for (const auto& [name, store] :
       {Entry{"bind", &pci::Bus::bind}, Entry{"unbind", &pci::Bus::unbind},
        Entry{"new_id", &pci::Bus::new_id}, Entry{"remove_id", &pci::Bus::remove_id}}) {
    // Slow: each may wait for the users of a device.
    builder.attribute(
        *directory,
        write_only(name, [&pci, &driver,
                          store](std::string_view text) { return (pci.*store)(driver, text); }),
        true);
  }
  builder.attribute(*directory, write_only("uevent", store_uevent));
  // Ours need no loading: driverctl loads a module of the driver's name unless it is there,
  // dpdk-devbind looks for that of the module.
  std::string module = driver.name();
  std::ranges::replace(module, '-', '_');
  for (const std::string& name : {driver.name(), module}) {
    builder.attribute(*builder.directory("module/" + name), constant("initstate", "live\n"));
  }
  builder.link(path, "module", "module/" + module);
}

void SysfsPci::driver_unregistered(pci::Driver& driver) {
  Nodes nodes;
  {
    const std::lock_guard lock(mutex_);
    if (auto found = drivers_.extract(&driver)) nodes = std::move(found.mapped());
  }
  remove_nodes(std::move(nodes));
}

void SysfsPci::add_group_locked(const pci::Device& device, Nodes& nodes) {
  const iommu::IommuGroup& group = *device.iommu_group();
  const std::string path = group_path(group);
  GroupNodes& shown = groups_[&group];
  if (shown.devices++ == 0) {
    SysfsBuilder builder(sys_, shown.nodes);
    const auto directory = builder.directory(path);
    builder.directory(path + "/devices");
    builder.attribute(*directory, constant("reserved_regions", reserved_regions(group)));
    Attribute type = constant("type", "DMA\n", 0644);
    type.store = [](std::string_view) -> Status { return fail(EBUSY); };
    builder.attribute(*directory, std::move(type));
  }
  SysfsBuilder builder(sys_, nodes);
  builder.link(path + "/devices", device.name(), device.sysfs_path());
  builder.link(device.sysfs_path(), "iommu_group", path);
}

void SysfsPci::device_added(const std::shared_ptr<pci::Device>& device) {
  const std::lock_guard lock(mutex_);
  const auto [it, added] = devices_.try_emplace(device.get());
  if (!added) return;
  const std::string& path = device->sysfs_path();
  SysfsBuilder builder(sys_, it->second.device);
  const auto directory = builder.directory(path);
  for (auto& each : pci_attributes(device)) builder.attribute(*directory, std::move(each));
  for (auto& each : slow_pci_attributes(device)) {
    builder.attribute(*directory, std::move(each), true);
  }
  builder.file(*directory, "config", config_traits(*device), config_opener(device));
  builder.link(path, "subsystem", "bus/pci");
  add_group_locked(*device, it->second.device);
  builder.link("bus/pci/devices", device->name(), path);
}

void SysfsPci::device_removed(const std::shared_ptr<pci::Device>& device) {
  Nodes nodes;
  Nodes group_nodes;
  {
    const std::lock_guard lock(mutex_);
    auto found = devices_.extract(device.get());
    if (!found) return;
    nodes = std::move(found.mapped().device);
    const auto group = groups_.find(device->iommu_group().get());
    if (--group->second.devices == 0) {
      group_nodes = std::move(group->second.nodes);
      groups_.erase(group);
    }
  }
  remove_nodes(std::move(nodes));
  remove_nodes(std::move(group_nodes));
}

void SysfsPci::driver_bound(pci::Device& device, pci::Driver& driver) {
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(&device);
  if (found == devices_.end() || !found->second.driver.empty()) return;
  const std::string& path = device.sysfs_path();
  SysfsBuilder builder(sys_, found->second.driver);
  builder.link(path, "driver", driver_path(driver.name()));
  builder.link(driver_path(driver.name()), device.name(), path);
  // What the driver has registered with VFIO.
  const auto group = host_.vfio().find_group(device.iommu_group()->id());
  if (!group) return;
  for (const auto& each : group->devices()) {
    if (each->sysfs_path() != path) continue;
    const std::string name = fmt::format("vfio{}", each->index());
    const std::string class_device = path + "/vfio-dev/" + name;
    builder.directory(path + "/vfio-dev");
    const auto in = builder.directory(class_device);
    builder.link(class_device, "device", path);
    builder.link(class_device, "subsystem", "class/vfio-dev");
    builder.attribute(*in, uevent(""));
    builder.link("class/vfio-dev", name, class_device);
  }
}

void SysfsPci::driver_unbinding(pci::Device& device) {
  Nodes nodes;
  {
    const std::lock_guard lock(mutex_);
    const auto found = devices_.find(&device);
    if (found != devices_.end()) nodes.swap(found->second.driver);
  }
  remove_nodes(std::move(nodes));
}

}  // namespace uvfio::nodes
