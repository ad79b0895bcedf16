#include <fmt/chrono.h>
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "inspect/inspect.h"
#include "iommu/type1/type1.h"
#include "iommu/unit/fault_queue.h"

namespace uvfio::inspect {
namespace {

using Json = nlohmann::ordered_json;
using iommu::type1::Mapping;
using iommu::type1::Type1;

std::string hex(std::uint64_t number) { return fmt::format("{:#x}", number); }

std::string text_of(vfio::Prot prot) {
  std::string text;
  if (vfio::allows(prot, vfio::Prot::read)) text += 'r';
  if (vfio::allows(prot, vfio::Prot::write)) text += 'w';
  return text;
}

const char* text_of(Mapping::Reach reach) {
  switch (reach) {
    case Mapping::Reach::unknown:
      return "not used yet";
    case Mapping::Reach::direct:
      return "direct";
    case Mapping::Reach::copy:
      return "copy";
  }
  return "";
}

using Spaces = std::map<memory::AddressSpace*, std::shared_ptr<memory::AddressSpace>>;

Json json_of(const Type1::Snapshot::DomainView& domain) {
  return {{"id", domain.id},
          {"implementation", domain.implementation},
          {"groups", domain.groups},
          {"coherent", domain.coherent},
          {"aperture", {hex(domain.aperture_first), hex(domain.aperture_last)}},
          {"page_sizes", hex(domain.page_sizes)},
          {"pages", {{"4K", domain.leaves[0]}, {"2M", domain.leaves[1]}, {"1G", domain.leaves[2]}}},
          {"table_bytes", domain.table_bytes}};
}

Json json_of(const Type1::Snapshot::MappingView& mapping) {
  return {{"iova", hex(mapping.iova)},
          {"size", hex(mapping.size)},
          {"vaddr", hex(mapping.vaddr)},
          {"access", text_of(mapping.prot)},
          {"owner", mapping.space->name()},
          {"owner_alive", mapping.space->alive()},
          {"memory", text_of(mapping.reach)},
          {"in_domains", mapping.iommu_mapped},
          {"vaddr_invalid", mapping.vaddr_invalid},
          {"pinned_pages", mapping.pinned_pages}};
}

Json json_of(vfio::Container& container, Spaces& spaces) {
  Json json{{"number", container.number()}, {"groups", container.group_ids()}, {"iommu", nullptr}};
  const auto iommu = container.iommu();
  auto* type1 = dynamic_cast<Type1*>(iommu.get());
  if (type1 == nullptr) return json;
  json["iommu"] = type1->v2() ? "type1v2" : "type1";
  const Type1::Snapshot snapshot = type1->snapshot();
  json["page_sizes"] = hex(snapshot.info.page_sizes);
  json["dma_avail"] = snapshot.info.dma_avail;
  json["iova_ranges"] = Json::array();
  for (const auto& range : snapshot.info.ranges)
    json["iova_ranges"].push_back({hex(range.first), hex(range.last)});
  json["dirty_tracking"] = snapshot.dirty_tracking;
  json["emulated_groups"] = snapshot.emulated_groups;
  json["domains"] = Json::array();
  for (const auto& domain : snapshot.domains) json["domains"].push_back(json_of(domain));
  json["mappings"] = Json::array();
  for (const auto& mapping : snapshot.mappings) {
    json["mappings"].push_back(json_of(mapping));
    spaces.emplace(mapping.space.get(), mapping.space);
  }
  return json;
}

Json json_of(const vfio::Group& group) {
  const auto& unit = group.iommu_group().unit();
  Json json{{"id", group.id()},
            {"type", group.type() == iommu::GroupType::real ? "real" : "emulated"},
            {"iommu_unit", unit ? Json(unit->properties().name) : Json()},
            {"devices", Json::array()}};
  for (const auto& device : group.devices())
    json["devices"].push_back({{"name", device->name()}, {"open", device->is_open()}});
  return json;
}

Json json_of(memory::AddressSpace& space) {
  Json holders = Json::array();
  for (const auto& [container, pages] : space.locked().holders())
    holders.push_back({{"container", container}, {"pages", pages}});
  return {{"owner", space.name()},
          {"alive", space.alive()},
          {"charged_pages", space.locked().pages()},
          {"limit_pages", space.lock_limit()},
          {"holders", std::move(holders)}};
}

Json json_of(const iommu::Unit& unit) {
  const auto& properties = unit.properties();
  Json reserved = Json::array();
  for (const auto& region : properties.reserved)
    reserved.push_back({hex(region.first), hex(region.last), name_of(region.kind)});
  Json faults = Json::array();
  for (const auto& fault : unit.faults().recent()) {
    faults.push_back(
        {{"time", fmt::format("{:%FT%T}Z",
                              std::chrono::time_point_cast<std::chrono::microseconds>(fault.time))},
         {"device", fault.device},
         {"iova", hex(fault.iova)},
         {"size", hex(fault.size)},
         {"access", text_of(fault.access)},
         {"reason", describe(fault.reason)}});
  }
  return {{"name", properties.name},
          {"implementation", properties.implementation},
          {"page_sizes", hex(properties.page_sizes)},
          {"aperture", {hex(properties.aperture_first), hex(properties.aperture_last)}},
          {"reserved", std::move(reserved)},
          {"snoop_control", properties.snoop_control},
          {"isolated_msi", properties.isolated_msi},
          {"faults_total", unit.faults().total()},
          {"faults", std::move(faults)}};
}

}  // namespace

Json to_json(Host& host) {
  Json json{{"containers", Json::array()},
            {"groups", Json::array()},
            {"accounts", Json::array()},
            {"iommu_units", Json::array()}};
  Spaces spaces;
  for (const auto& container : host.vfio().containers())
    json["containers"].push_back(json_of(*container, spaces));
  std::map<std::string, std::shared_ptr<iommu::Unit>> units;
  for (const auto& group : host.vfio().groups()) {
    json["groups"].push_back(json_of(*group));
    if (const auto& unit = group->iommu_group().unit())
      units.emplace(unit->properties().name, unit);
  }
  for (const auto& [key, space] : spaces) json["accounts"].push_back(json_of(*space));
  for (const auto& [name, unit] : units) json["iommu_units"].push_back(json_of(*unit));
  return json;
}

}  // namespace uvfio::inspect
