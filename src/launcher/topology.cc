#include "launcher/topology.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include "launcher/models.h"
#include "launcher/toml_failure.h"
#include "launcher/topology_pci.h"

namespace uvfio::launcher {
namespace {

Outcome<Uuid> parse_uuid(std::string_view text) {
  const auto uuid = Uuid::parse(text);
  if (!uuid)
    return failure("\"{}\" is not a UUID such as 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", text);
  return *uuid;
}

Outcome<MdevRequest> parse_mdev_table(const toml::table& table, std::string_view file) {
  MdevRequest request{.type = {}, .uuid = {}, .origin = origin_of(table, file)};
  for (const auto& [key, node] : table) {
    const auto text = node.value<std::string_view>();
    if (key != "type" && key != "uuid") {
      return failure_at(file, node, "unknown key \"{}\" in [[mdev]]; known are type and uuid",
                        key.str());
    }
    if (!node.is_string()) return failure_at(file, node, "\"{}\" must be a string", key.str());
    if (key == "type") {
      request.type = *text;
    } else {
      auto uuid = parse_uuid(*text);
      if (!uuid) return failure_at(file, node, "{}", uuid.error());
      request.uuid = *uuid;
    }
  }
  if (request.type.empty())
    return failure_at(file, table, "[[mdev]] needs a type, such as type = \"mtty-1\"");
  return request;
}

Outcome<std::shared_ptr<mdev::Device>> create_device(Host& host, const MdevRequest& request) {
  const auto types = offered_types(host);
  const auto offered = std::ranges::find(types, request.type, &OfferedType::id);
  if (offered == types.end()) {
    std::vector<std::string> known;
    for (const auto& type : types) known.push_back(type.id());
    return failure("there is no mdev type \"{}\"; known are {}", request.type,
                   fmt::join(known, ", "));
  }
  const Uuid uuid = request.uuid.value_or(Uuid::random());
  auto device = host.mdev().create(offered->parent, *offered->type, uuid);
  if (device) return std::move(*device);
  switch (value(device.error())) {
    case EFBIG:
      return failure("cannot create {} {}: {} (ulimit -f)", request.type, uuid.to_string(),
                     strerror(EFBIG));
    case EEXIST:
      return failure("the UUID {} is given twice", uuid.to_string());
    case ENOSPC:
    case EUSERS:
      return failure("no room for another {}: the parent {} has {} left", request.type,
                     offered->parent->info().name,
                     offered->parent->available_instances(*offered->type));
    default:
      return failure("cannot create {} {}: {}", request.type, uuid.to_string(),
                     strerror(value(device.error())));
  }
}

// Is the last one's name another's as well?
bool given_twice(const std::vector<iommu::UnitProperties>& units) {
  return std::ranges::count(units, units.back().name, &iommu::UnitProperties::name) > 1;
}

// A function that reads a table with `parse` and adds what it says to `all`.
template <typename T>
auto append_to(std::vector<T>& all, Outcome<T> (*parse)(const toml::table&, std::string_view),
               std::string_view file) {
  return [&all, parse, file](const toml::table& table) -> Outcome<void> {
    auto request = parse(table, file);
    if (!request) return std::unexpected(request.error());
    all.push_back(std::move(*request));
    return {};
  };
}

}  // namespace

void Topology::append(Topology more) {
  std::ranges::move(more.mdevs, std::back_inserter(mdevs));
  std::ranges::move(more.iommus, std::back_inserter(iommus));
  std::ranges::move(more.functions, std::back_inserter(functions));
  std::ranges::move(more.type1, std::back_inserter(type1));
}

Outcome<MdevRequest> parse_mdev(std::string_view text) {
  const auto colon = text.find(':');
  MdevRequest request{.type = std::string(text.substr(0, colon)), .uuid = {}, .origin = {}};
  if (request.type.empty())
    return failure("\"{}\" names no type; it must be TYPE or TYPE:UUID", text);
  if (colon != std::string_view::npos) {
    auto uuid = parse_uuid(text.substr(colon + 1));
    if (!uuid) return std::unexpected(uuid.error());
    request.uuid = *uuid;
  }
  return request;
}

Outcome<Topology> parse_topology(std::string_view text, std::string_view name) {
  toml::table root;
  try {
    root = toml::parse(text, name);
  } catch (const toml::parse_error& error) {
    return failure("{}:{}: {}", name, error.source().begin.line, error.description());
  }
  Topology topology;
  // Each kind of table, and what reads one.
  const std::map<std::string_view, std::function<Outcome<void>(const toml::table&)>> kinds{
      {"mdev", append_to(topology.mdevs, parse_mdev_table, name)},
      {"pci", append_to(topology.functions, parse_pci_table, name)},
      {"iommu", append_to(topology.iommus, parse_iommu_table, name)},
  };
  for (const auto& [key, node] : root) {
    if (key == "type1") {
      if (!node.is_table()) return failure_at(name, node, "\"type1\" must be a table: [type1]");
      auto settings = parse_type1_table(*node.as_table(), name);
      if (!settings) return std::unexpected(settings.error());
      topology.type1 = std::move(*settings);
      continue;
    }
    const auto kind = kinds.find(key.str());
    if (kind == kinds.end()) {
      return failure_at(name, node,
                        "unknown key \"{}\"; known are [[iommu]], [[mdev]], [[pci]] and [type1]",
                        key.str());
    }
    const auto* tables = node.as_array();
    if (tables == nullptr || !tables->is_homogeneous<toml::table>()) {
      return failure_at(name, node, "\"{0}\" must be an array of tables: [[{0}]]", key.str());
    }
    for (const auto& table : *tables) {
      if (auto read = kind->second(*table.as_table()); !read) return std::unexpected(read.error());
      if (key == "iommu" && given_twice(topology.iommus))
        return failure_at(name, table, "the IOMMU \"{}\" is given twice",
                          topology.iommus.back().name);
    }
  }
  return topology;
}

Outcome<Topology> read_topology(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file.is_open()) {
    errno = 0;  // a stream does not say why it ends
    text << file.rdbuf();
  }
  if (!file.is_open() || errno != 0) return failure("cannot read {}: {}", path, strerror(errno));
  return parse_topology(text.str(), path);
}

Outcome<std::vector<std::shared_ptr<mdev::Device>>> create_devices(Host& host,
                                                                   const Topology& topology) {
  std::vector<std::shared_ptr<mdev::Device>> devices;
  for (const auto& request : topology.mdevs) {
    auto device = create_device(host, request);
    if (!device) return failure_from(request.origin, device.error());
    devices.push_back(std::move(*device));
  }
  return devices;
}

}  // namespace uvfio::launcher
