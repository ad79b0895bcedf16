#include "launcher/type1_settings.h"

#include "launcher/toml_failure.h"

#include <fmt/ranges.h>

namespace uvfio::launcher {

Outcome<Type1Setting> parse_type1_setting(std::string_view text) {
  const auto equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return failure("\"{}\" is not NAME=VALUE; names are {}", text,
                   fmt::join(iommu::type1::Parameters::kNames, ", "));
  }
  return Type1Setting{.name = std::string(text.substr(0, equals)),
                      .value = std::string(text.substr(equals + 1)),
                      .origin = {}};
}

Outcome<std::vector<Type1Setting>> parse_type1_table(const toml::table& table,
                                                     std::string_view file) {
  std::vector<Type1Setting> settings;
  for (const auto& [key, node] : table) {
    Type1Setting setting{
        .name = std::string(key.str()), .value = {}, .origin = origin_of(node, file)};
    if (node.is_boolean()) {
      setting.value = std::string(1, *node.value<bool>() ? 'Y' : 'N');
    } else if (node.is_integer()) {
      setting.value = fmt::to_string(*node.value<std::int64_t>());
    } else if (node.is_string()) {
      setting.value = *node.value<std::string>();
    } else {
      return failure_at(file, node, "\"{}\" must be a string, a number, true or false", key.str());
    }
    settings.push_back(std::move(setting));
  }
  return settings;
}

Outcome<void> apply(const std::vector<Type1Setting>& settings, Host& host) {
  for (const auto& [name, value, origin] : settings) {
    const Status stored = host.type1_parameters().store(name, value);
    if (stored) continue;
    if (stored.error() == Errno{ENOENT}) {
      return failure_from(origin, fmt::format("type1 has no parameter \"{}\"; known are {}", name,
                                              fmt::join(iommu::type1::Parameters::kNames, ", ")));
    }
    return failure_from(origin, fmt::format("\"{}\" is no value for type1's {}; now it is {}",
                                            value, name, *host.type1_parameters().show(name)));
  }
  return {};
}

}  // namespace uvfio::launcher
