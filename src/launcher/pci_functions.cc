#include "launcher/pci_functions.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/log.h"
#include "pci/host_driver.h"

namespace uvfio::launcher {
namespace {

// The first bus of segment 0 behind bus 00 that the machine does not have.
std::uint8_t free_bus() {
  std::set<std::uint8_t> taken;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/pci/devices", error)) {
    const auto address = pci::Address::parse(entry.path().filename().string());
    if (address && address->segment == 0) taken.insert(address->bus);
  }
  std::uint8_t bus = 1;
  while (taken.contains(bus) && bus != 0xff) ++bus;
  return bus;
}

// An address for each request: its own, or the next slot of a free bus.
Outcome<std::vector<pci::Address>> addresses_of(const std::vector<PciRequest>& requests) {
  std::set<pci::Address> taken;
  for (const auto& request : requests) {
    if (request.address && !taken.insert(*request.address).second) {
      return failure_from(request.origin, fmt::format("the PCI address {} is given twice",
                                                      request.address->to_string()));
    }
  }
  std::vector<pci::Address> all;
  pci::Address next{.bus = free_bus()};
  for (const auto& request : requests) {
    if (request.address) {
      all.push_back(*request.address);
      continue;
    }
    while (std::ranges::any_of(taken, [&](const auto& at) { return at.same_slot(next); })) {
      if (next.device == 31) {
        return failure_from(request.origin,
                            fmt::format("no room for another function on bus {:02x}", next.bus));
      }
      ++next.device;
    }
    taken.insert(next);
    all.push_back(next);
  }
  return all;
}

}  // namespace

Outcome<std::unique_ptr<PciFunctions>> PciFunctions::create(Host& host, const Topology& topology) {
  const auto addresses = addresses_of(topology.functions);
  if (!addresses) return std::unexpected(addresses.error());
  std::unique_ptr<PciFunctions> functions(new PciFunctions(host));
  if (auto added = functions->add_units(topology); !added) return std::unexpected(added.error());
  // Each gets the driver that was asked for, not one that happens to match.
  host.pci().set_autoprobe(false);
  functions->add_drivers(topology);
  for (std::size_t i = 0; i < addresses->size(); ++i) {
    const PciRequest& request = topology.functions[i];
    auto added = functions->add(request, (*addresses)[i]);
    if (!added) return failure_from(request.origin, added.error());
  }
  host.pci().set_autoprobe(true);
  return functions;
}

PciFunctions::~PciFunctions() {
  devices_.clear();
  for (const auto& driver : drivers_) host_.pci().unregister_driver(*driver);
}

Outcome<void> PciFunctions::add_units(const Topology& topology) {
  for (const auto& properties : topology.iommus) {
    if (std::ranges::any_of(
            units_, [&](const auto& unit) { return unit->properties().name == properties.name; })) {
      return failure("the IOMMU \"{}\" is given twice", properties.name);
    }
    units_.push_back(std::make_shared<iommu::Unit>(properties));
  }
  if (units_.empty()) units_.push_back(std::make_shared<iommu::Unit>(iommu::UnitProperties{}));
  return {};
}

// Drivers of the host: those of Linux that match our models, and whatever else is asked for.
void PciFunctions::add_drivers(const Topology& topology) {
  const auto add = [this](std::unique_ptr<pci::Driver> driver) {
    if (host_.pci().register_driver(*driver)) drivers_.push_back(std::move(driver));
  };
  add(std::make_unique<pci::HostDriver>(
      "nvme", std::vector<pci::Id>{{.class_code = 0x010802, .class_mask = 0xffffff}}));
  add(std::make_unique<pci::HostDriver>(
      "ioatdma", std::vector<pci::Id>{{.vendor = 0x8086, .device = 0x2021}}));
  add(std::make_unique<pci::StubDriver>());
  for (const auto& request : topology.functions) {
    if (request.driver != "none") add(std::make_unique<pci::HostDriver>(request.driver));
  }
}

Outcome<void> PciFunctions::add(const PciRequest& request, const pci::Address& address) {
  auto model = make_pci_model(request.model, request.keys);
  if (!model) return std::unexpected(model.error());
  const auto named = [&](const auto& unit) { return unit->properties().name == request.iommu; };
  const auto unit = request.iommu.empty() ? units_.begin() : std::ranges::find_if(units_, named);
  if (unit == units_.end()) {
    std::vector<std::string_view> known;
    for (const auto& each : units_) known.push_back(each->properties().name);
    return failure("there is no IOMMU \"{}\"; known are {}", request.iommu, fmt::join(known, ", "));
  }
  auto device =
      host_.pci().plug({.address = address, .group = request.group, .unit = *unit, .reserved = {}},
                       std::move(*model));
  if (!device) {
    return failure("cannot plug {} in at {}: {}", request.model, address.to_string(),
                   value(device.error()) == EINVAL ? "its IOMMU group is behind another IOMMU"
                                                   : strerror(value(device.error())));
  }
  devices_.push_back(*device);
  if (request.driver == "none") return {};
  // Bound by name, but without an override that stays: who runs inside is free to rebind.
  pci::Driver* const driver = host_.pci().find_driver(request.driver);
  Status bound = (*device)->set_driver_override(request.driver);
  if (bound) bound = host_.pci().bind(*driver, (*device)->name());
  static_cast<void>((*device)->set_driver_override(""));
  if (!bound) {
    return failure("cannot bind {} to {}: {}", (*device)->name(), request.driver,
                   strerror(value(bound.error())));
  }
  spdlog::info("{} {} is bound to {}, group {}", request.model, (*device)->name(), request.driver,
               (*device)->iommu_group()->id());
  return {};
}

}  // namespace uvfio::launcher
