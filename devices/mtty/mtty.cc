#include "devices/mtty/mtty.h"

#include <array>
#include <utility>

#include "devices/mtty/mtty_device.h"

namespace uvfio::mtty {
namespace {

struct MttyType {
  const char* sysfs_name;
  const char* pretty_name;
  unsigned ports;
};

constexpr std::array<MttyType, 2> kTypes{{
    {"1", "Single port serial", 1},
    {"2", "Dual port serial", 2},
}};

// 0: no such type.
unsigned ports_of(const mdev::Type& type) {
  for (const MttyType& known : kTypes) {
    if (type.sysfs_name == known.sysfs_name) return known.ports;
  }
  return 0;
}

}  // namespace

std::optional<unsigned> MttyDriver::get_available(const mdev::Parent&, const mdev::Type& type) {
  const unsigned ports = ports_of(type);
  return ports == 0 ? 0 : pool_.free() / ports;
}

Result<std::unique_ptr<vfio::DeviceOps>> MttyDriver::probe(mdev::Device& device) {
  const unsigned ports = ports_of(device.type());
  if (ports == 0) return fail(EINVAL);
  std::optional<PortReservation> reservation = pool_.reserve(ports);
  if (!reservation) return fail(ENOSPC);
  Attribute attribute{.name = "sample_mdev_dev",
                      .show = [text = "This is MDEV " + device.name() + "\n"] { return text; },
                      .store = nullptr};
  device.attributes = {{.name = "vendor", .attributes = {std::move(attribute)}}};
  return std::make_unique<MttyDevice>(ports, std::move(*reservation));
}

mdev::ParentInfo MttyDriver::parent_info() {
  mdev::ParentInfo info{.name = "mtty",
                        .driver_name = "mtty",
                        .sysfs_path = "devices/virtual/mtty/mtty",
                        .class_name = "mtty",
                        .types = {},
                        .attributes = {}};
  for (const MttyType& type : kTypes) info.types.push_back({type.sysfs_name, type.pretty_name});
  return info;
}

Result<std::shared_ptr<mdev::Parent>> register_mtty(mdev::Bus& bus, MttyDriver& driver) {
  if (const Status status = bus.register_driver(driver); !status) {
    return std::unexpected(status.error());
  }
  auto parent = bus.register_parent(MttyDriver::parent_info(), driver);
  if (!parent) bus.unregister_driver(driver);
  return parent;
}

}  // namespace uvfio::mtty
