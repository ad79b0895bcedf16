#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "inspect/inspect.h"

namespace uvfio::inspect {
namespace {

using Json = nlohmann::ordered_json;
using Out = fmt::memory_buffer;

template <typename... Args>
void print(Out& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

std::string word(const Json& json) {
  return json.is_string() ? json.get<std::string>() : json.dump();
}

std::string words(const Json& list) {
  std::vector<std::string> all;
  for (const Json& each : list) all.push_back(word(each));
  return all.empty() ? "none" : fmt::format("{}", fmt::join(all, ", "));
}

void print_mapping(Out& out, const Json& mapping) {
  print(out, "    {:>18} {:>14} {:<2}  {} at {}, {}", word(mapping["iova"]), word(mapping["size"]),
        word(mapping["access"]), word(mapping["owner"]), word(mapping["vaddr"]),
        word(mapping["memory"]));
  if (!mapping["owner_alive"].get<bool>()) print(out, ", owner gone");
  if (mapping["in_domains"].get<bool>()) print(out, ", in domains");
  if (mapping["vaddr_invalid"].get<bool>()) print(out, ", vaddr invalid");
  if (mapping["pinned_pages"].get<std::uint64_t>() != 0)
    print(out, ", {} pages pinned", word(mapping["pinned_pages"]));
  print(out, "\n");
}

void print_container(Out& out, const Json& container) {
  print(out, "container {}: groups {}", word(container["number"]), words(container["groups"]));
  if (container["iommu"].is_null()) {
    print(out, ", no IOMMU set\n");
    return;
  }
  print(out, ", {}, page sizes {}, {} mappings left{}\n", word(container["iommu"]),
        word(container["page_sizes"]), word(container["dma_avail"]),
        container["dirty_tracking"].get<bool>() ? ", dirty tracking" : "");
  for (const Json& range : container["iova_ranges"])
    print(out, "  iova {} - {}\n", word(range[0]), word(range[1]));
  for (const Json& domain : container["domains"]) {
    const Json& pages = domain["pages"];
    print(out, "  domain {} ({}{}): groups {}; pages 4K {}, 2M {}, 1G {}; tables {} bytes\n",
          word(domain["id"]), word(domain["implementation"]),
          domain["coherent"].get<bool>() ? ", coherent" : "", words(domain["groups"]),
          word(pages["4K"]), word(pages["2M"]), word(pages["1G"]), word(domain["table_bytes"]));
  }
  if (!container["mappings"].empty())
    print(out, "  {} mappings (iova, size, access, memory):\n", container["mappings"].size());
  for (const Json& mapping : container["mappings"]) print_mapping(out, mapping);
}

void print_group(Out& out, const Json& group) {
  std::vector<std::string> devices;
  for (const Json& device : group["devices"])
    devices.push_back(word(device["name"]) + (device["open"].get<bool>() ? " (open)" : ""));
  print(out, "group {}: {}{}: {}\n", word(group["id"]), word(group["type"]),
        group["iommu_unit"].is_null() ? "" : " behind " + word(group["iommu_unit"]),
        fmt::join(devices, ", "));
}

void print_account(Out& out, const Json& account) {
  // What no limit looks like in pages.
  constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
  const auto limit = account["limit_pages"].get<std::uint64_t>();
  print(out, "account of {}: {} of {} pages", word(account["owner"]),
        word(account["charged_pages"]), limit == kUnlimited ? "unlimited" : std::to_string(limit));
  for (const Json& holder : account["holders"])
    print(out, "; container {} has {}", word(holder["container"]), word(holder["pages"]));
  print(out, "\n");
}

void print_faults(Out& out, const Json& unit) {
  const auto total = unit["faults_total"].get<std::uint64_t>();
  print(out, "{}: {} faults\n", word(unit["name"]), total);
  if (total > unit["faults"].size()) print(out, "  the last {}:\n", unit["faults"].size());
  for (const Json& fault : unit["faults"]) {
    print(out, "  {}  {} {} iova {}, size {}: {}\n", word(fault["time"]), word(fault["device"]),
          word(fault["access"]) == "w" ? "wrote" : "read", word(fault["iova"]), word(fault["size"]),
          word(fault["reason"]));
  }
}

}  // namespace

std::string to_text(const Json& state) {
  Out out;
  for (const Json& container : state.at("containers")) print_container(out, container);
  for (const Json& group : state.at("groups")) print_group(out, group);
  for (const Json& account : state.at("accounts")) print_account(out, account);
  for (const Json& unit : state.at("iommu_units")) print_faults(out, unit);
  return fmt::to_string(out);
}

std::string faults_to_text(const Json& state) {
  Out out;
  for (const Json& unit : state.at("iommu_units")) print_faults(out, unit);
  return fmt::to_string(out);
}

}  // namespace uvfio::inspect
