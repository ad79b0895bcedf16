#include "launcher/topology_pci.h"

#include "launcher/toml_failure.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>

namespace uvfio::launcher {
namespace {

// What each request has, whatever its model. False: `key` is one of the model's.
Outcome<bool> set_common(PciRequest& request, std::string_view key, std::string_view value) {
  const std::map<std::string_view, std::string*> texts{{"model", &request.model},
                                                       {"driver", &request.driver},
                                                       {"group", &request.group},
                                                       {"iommu", &request.iommu}};
  if (key == "address") {
    request.address = pci::Address::parse(value);
    if (!request.address) {
      return failure("\"{}\" is not a PCI address such as 0000:01:00.0", value);
    }
    return true;
  }
  const auto text = texts.find(key);
  if (text == texts.end()) return false;
  if (value.empty()) return failure("\"{}\" is empty", key);
  // It becomes the name of a directory.
  if (key == "driver" && (value.find('/') != value.npos || value == "." || value == ".."))
    return failure("\"{}\" cannot be the name of a driver", value);
  *text->second = value;
  return true;
}

// A value of a model's key, as text.
std::optional<std::string> text_of(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto yes = node.value_exact<bool>()) return *yes ? "1" : "0";
  return std::nullopt;
}

std::optional<std::uint64_t> unsigned_of(const toml::node& node) {
  const auto number = node.value_exact<std::int64_t>();
  if (!number || *number < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*number);
}

// Each reads the value of one key; false: it is not of this kind.
using Reader = std::function<bool(const toml::node&)>;

Reader text(std::string& into) {
  return [&into](const toml::node& node) {
    const auto value = node.value_exact<std::string>();
    if (!value || value->empty()) return false;
    into = *value;
    return true;
  };
}
Reader yes_or_no(bool& into) {
  return [&into](const toml::node& node) {
    const auto value = node.value_exact<bool>();
    if (value) into = *value;
    return value.has_value();
  };
}
Reader size(std::uint64_t& into) {
  return [&into](const toml::node& node) {
    const auto value = unsigned_of(node);
    if (value) into = *value;
    return value.has_value();
  };
}

std::optional<std::vector<std::uint64_t>> numbers(const toml::node& node) {
  const auto* array = node.as_array();
  if (array == nullptr) return std::nullopt;
  std::vector<std::uint64_t> all;
  for (const auto& each : *array) {
    const auto number = unsigned_of(each);
    if (!number) return std::nullopt;
    all.push_back(*number);
  }
  return all;
}

Reader page_sizes(std::uint64_t& into) {
  return [&into](const toml::node& node) {
    const auto sizes = numbers(node);
    if (!sizes || sizes->empty()) return false;
    into = 0;
    for (const std::uint64_t each : *sizes) {
      // What the page tables can have as leaves.
      if (each != 0x1000 && each != 0x20'0000 && each != 0x4000'0000) return false;
      into |= each;
    }
    return true;
  };
}

Reader range(std::uint64_t& first, std::uint64_t& last) {
  return [&](const toml::node& node) {
    const auto ends = numbers(node);
    if (!ends || ends->size() != 2 || ends->front() > ends->back()) return false;
    first = ends->front();
    last = ends->back();
    return true;
  };
}

using Kind = iommu::ReservedRegion::Kind;
constexpr std::array<std::pair<std::string_view, Kind>, 5> kKinds{
    {{"direct", Kind::direct},
     {"direct-relaxable", Kind::direct_relaxable},
     {"reserved", Kind::reserved},
     {"msi", Kind::msi},
     {"software-msi", Kind::software_msi}}};

std::optional<iommu::ReservedRegion> region(const toml::table& table) {
  iommu::ReservedRegion region;
  const auto* first = table.get("first");
  const auto* last = table.get("last");
  const auto kind = table["kind"].value<std::string_view>();
  const auto found =
      std::ranges::find(kKinds, kind.value_or(""), &std::pair<std::string_view, Kind>::first);
  if (table.size() != 3 || first == nullptr || last == nullptr || found == kKinds.end() ||
      !size(region.first)(*first) || !size(region.last)(*last) || region.first > region.last) {
    return std::nullopt;
  }
  region.kind = found->second;
  return region;
}

Reader regions(std::vector<iommu::ReservedRegion>& into) {
  return [&into](const toml::node& node) {
    const auto* array = node.as_array();
    if (array == nullptr) return false;
    std::vector<iommu::ReservedRegion> all;
    for (const auto& each : *array) {
      const auto read = each.is_table() ? region(*each.as_table()) : std::nullopt;
      if (!read) return false;
      all.push_back(*read);
    }
    into = std::move(all);
    return true;
  };
}

}  // namespace

Outcome<PciRequest> parse_pci(std::string_view text) {
  PciRequest request;
  std::string_view rest = text;
  // A value may have an @ of its own: only an address at the end is one.
  if (const auto at = rest.rfind('@'); at != rest.npos) {
    request.address = pci::Address::parse(rest.substr(at + 1));
    if (request.address) {
      rest = rest.substr(0, at);
    } else if (rest.find('=') == rest.npos) {
      return failure("\"{}\" is not a PCI address such as 0000:01:00.0", rest.substr(at + 1));
    }
  }
  request.model = rest.substr(0, rest.find(','));
  if (request.model.empty()) {
    return failure("\"{}\" names no model; it must be MODEL[,KEY=VALUE...][@ADDRESS]", text);
  }
  while (rest.find(',') != rest.npos) {
    rest = rest.substr(rest.find(',') + 1);
    const std::string_view item = rest.substr(0, rest.find(','));
    const auto equals = item.find('=');
    if (equals == item.npos || equals == 0) return failure("\"{}\" is not KEY=VALUE", item);
    const auto common = set_common(request, item.substr(0, equals), item.substr(equals + 1));
    if (!common) return std::unexpected(common.error());
    if (!*common && !request.keys.emplace(item.substr(0, equals), item.substr(equals + 1)).second) {
      return failure("\"{}\" is given twice in \"{}\"", item.substr(0, equals), text);
    }
  }
  return request;
}

Outcome<PciRequest> parse_pci_table(const toml::table& table, std::string_view file) {
  PciRequest request;
  request.origin = origin_of(table, file);
  for (const auto& [key, node] : table) {
    const auto value = text_of(node);
    if (!node.is_string() && (key == "model" || std::ranges::count(kFunctionKeys, key.str()) != 0))
      return failure_at(file, node, "\"{}\" must be a string", key.str());
    if (!value)
      return failure_at(file, node, "\"{}\" must be a string, number or boolean", key.str());
    const auto common = set_common(request, key.str(), *value);
    if (!common) return failure_at(file, node, "{}", common.error());
    if (!*common) request.keys.emplace(key.str(), *value);
  }
  if (const PciModel* const model = find_pci_model(request.model)) {
    for (const auto& [key, value] : request.keys) {
      if (!model->takes(key))
        return failure_at(file, *table.get(key), "{}", unknown_key(*model, key));
    }
  }
  if (request.model.empty()) {
    return failure_at(file, table, "[[pci]] needs a model, such as model = \"edu\"");
  }
  return request;
}

Outcome<iommu::UnitProperties> parse_iommu_table(const toml::table& table, std::string_view file) {
  iommu::UnitProperties unit;
  unit.name.clear();
  struct Key {
    Reader read;
    std::string_view wants;
  };
  const std::map<std::string_view, Key> keys{
      {"name", {text(unit.name), "a string that is not empty"}},
      {"implementation", {text(unit.implementation), "a string that is not empty"}},
      {"page_sizes", {page_sizes(unit.page_sizes), "an array of 4096, 0x200000, 0x40000000"}},
      {"aperture",
       {range(unit.aperture_first, unit.aperture_last), "an array of the first and last address"}},
      {"reserved",
       {regions(unit.reserved),
        "an array of {first, last, kind}, kind being direct, "
        "direct-relaxable, reserved, msi or software-msi"}},
      {"snoop_control", {yes_or_no(unit.snoop_control), "a boolean"}},
      {"isolated_msi", {yes_or_no(unit.isolated_msi), "a boolean"}},
      {"table_limit", {size(unit.table_limit), "a number of bytes"}},
  };
  for (const auto& [key, node] : table) {
    const auto known = keys.find(key.str());
    if (known == keys.end()) {
      std::vector<std::string_view> names;
      for (const auto& [each, entry] : keys) names.push_back(each);
      return failure_at(file, node, "unknown key \"{}\" in [[iommu]]; known are {}", key.str(),
                        fmt::join(names, ", "));
    }
    if (!known->second.read(node)) {
      return failure_at(file, node, "\"{}\" must be {}", key.str(), known->second.wants);
    }
  }
  if (unit.name.empty()) return failure_at(file, table, "[[iommu]] needs a name");
  return unit;
}

}  // namespace uvfio::launcher
