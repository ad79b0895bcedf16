#include "launcher/topology.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include "launcher/models.h"

namespace uvfio::launcher {
namespace {

Outcome<Uuid> parse_uuid(std::string_view text) {
  const auto uuid = Uuid::parse(text);
  if (!uuid)
    return failure("\"{}\" is not a UUID such as 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", text);
  return *uuid;
}

// A failure at the place of `node` in the file.
template <typename... Args>
std::unexpected<std::string> failure_at(std::string_view file, const toml::node& node,
                                        fmt::format_string<Args...> format, Args&&... args) {
  return failure("{}:{}: {}", file, node.source().begin.line,
                 fmt::format(format, std::forward<Args>(args)...));
}

Outcome<MdevRequest> parse_mdev_table(const toml::table& table, std::string_view file) {
  MdevRequest request;
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

}  // namespace

Outcome<MdevRequest> parse_mdev(std::string_view text) {
  const auto colon = text.find(':');
  MdevRequest request{.type = std::string(text.substr(0, colon)), .uuid = {}};
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
  for (const auto& [key, node] : root) {
    if (key != "mdev")
      return failure_at(name, node, "unknown key \"{}\"; known is [[mdev]]", key.str());
    const auto* tables = node.as_array();
    if (tables == nullptr || !tables->is_homogeneous<toml::table>()) {
      return failure_at(name, node, "\"mdev\" must be an array of tables: [[mdev]]");
    }
    for (const auto& table : *tables) {
      auto request = parse_mdev_table(*table.as_table(), name);
      if (!request) return std::unexpected(request.error());
      topology.mdevs.push_back(std::move(*request));
    }
  }
  return topology;
}

Outcome<Topology> read_topology(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return failure("cannot read {}: {}", path, strerror(errno));
  return parse_topology(text.str(), path);
}

Outcome<std::vector<std::shared_ptr<mdev::Device>>> create_devices(Host& host,
                                                                   const Topology& topology) {
  std::vector<std::shared_ptr<mdev::Device>> devices;
  for (const auto& request : topology.mdevs) {
    auto device = create_device(host, request);
    if (!device) return std::unexpected(device.error());
    devices.push_back(std::move(*device));
  }
  return devices;
}

}  // namespace uvfio::launcher
