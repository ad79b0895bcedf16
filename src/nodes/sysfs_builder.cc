#include "nodes/sysfs_builder.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>

namespace uvfio::nodes {

std::string_view without_newline(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

Status store_uevent(std::string_view text) {
  static constexpr std::array<std::string_view, 8> kActions{
      "add", "remove", "change", "move", "online", "offline", "bind", "unbind"};
  text = without_newline(text);
  if (std::ranges::find(kActions, text.substr(0, text.find(' '))) == kActions.end()) {
    return fail(EINVAL);
  }
  return {};
}

Attribute constant(std::string name, std::string text, unsigned mode) {
  return {.name = std::move(name),
          .mode = mode,
          .show = [text = std::move(text)]() -> Result<std::string> { return text; },
          .store = {}};
}

Attribute uevent(std::string text) {
  Attribute attribute = constant("uevent", std::move(text), 0644);
  attribute.store = store_uevent;
  return attribute;
}

Attribute write_only(std::string name, std::function<Status(std::string_view)> store) {
  return {.name = std::move(name), .mode = 0200, .show = {}, .store = std::move(store)};
}

void remove_nodes(Nodes nodes) {
  // What was made last goes first.
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) (*it)->remove();
}

std::shared_ptr<Directory> SysfsBuilder::directory(const std::string& path, bool owned) {
  std::shared_ptr<Directory> directory = sys_;
  std::string_view rest = path;
  while (!rest.empty()) {
    const std::size_t slash = rest.find('/');
    const std::string name(rest.substr(0, slash));
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    if (auto made = directory->add_directory(name)) {
      directory = std::move(*made);
      // Only the last one is ours alone: others may come to live in those above it.
      if (owned && rest.empty()) nodes_.push_back(directory);
      continue;
    }
    const auto node = directory->lookup(name);
    if (!node || node->kind() != Kind::directory) {
      spdlog::error("nodes: /sys/{} cannot be made", path);
      return Directory::make_root();  // shown nowhere
    }
    directory = std::static_pointer_cast<Directory>(node);
  }
  return directory;
}

void SysfsBuilder::link(const std::string& in, const std::string& name, const std::string& to) {
  remember(directory(in, false)->add_link(name, relative_target(in, to)));
}

void SysfsBuilder::attribute(Directory& in, Attribute attribute, bool slow) {
  remember(in.add_attribute(std::move(attribute), slow));
}

void SysfsBuilder::attributes(const std::string& path, const std::vector<AttributeGroup>& groups) {
  for (const AttributeGroup& group : groups) {
    const auto in = directory(group.name.empty() ? path : path + "/" + group.name);
    for (const Attribute& each : group.attributes) attribute(*in, each);
  }
}

void SysfsBuilder::file(Directory& in, std::string name, const DeviceNode::Traits& traits,
                        DeviceNode::Opener opener) {
  remember(in.add_device(std::move(name), traits, std::move(opener)));
}

}  // namespace uvfio::nodes
