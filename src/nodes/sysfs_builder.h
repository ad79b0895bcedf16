// What the parts of sysfs are made with.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nodes/tree.h"
#include "uvfio/attribute.h"

namespace uvfio::nodes {

// A written name; `echo` adds a newline (sysfs_streq).
[[nodiscard]] std::string_view without_newline(std::string_view text);

// What a device's `uevent` says when written to (kobject_synth_uevent): "ACTION[ UUID[
// KEY=VALUE]...]". Nobody listens to our events, so a well-formed one has no effect.
[[nodiscard]] Status store_uevent(std::string_view text);

// An attribute that always says the same.
[[nodiscard]] Attribute constant(std::string name, std::string text, unsigned mode = 0444);
[[nodiscard]] Attribute uevent(std::string text);
[[nodiscard]] Attribute write_only(std::string name, std::function<Status(std::string_view)> store);

// The nodes of one thing. Each is removed with all that is below it.
using Nodes = std::vector<std::shared_ptr<Node>>;
// Not with a lock held that an attribute's store may take: removal waits for attributes that are
// being written.
void remove_nodes(Nodes nodes);

// Adds nodes below /sys and remembers what has to go with the thing that they belong to. What is
// there already (another owner made it) stays.
class SysfsBuilder {
 public:
  SysfsBuilder(std::shared_ptr<Directory> sys, Nodes& nodes)
      : sys_(std::move(sys)), nodes_(nodes) {}

  // The directory at `path`. Missing ones are made; the last is remembered if `owned`.
  std::shared_ptr<Directory> directory(const std::string& path, bool owned = true);
  void link(const std::string& in, const std::string& name, const std::string& to);
  void attribute(Directory& in, Attribute attribute, bool slow = false);
  void attributes(const std::string& path, const std::vector<AttributeGroup>& groups);
  void file(Directory& in, std::string name, const DeviceNode::Traits& traits,
            DeviceNode::Opener opener);

 private:
  template <typename T>
  void remember(Result<std::shared_ptr<T>> node) {
    if (node) nodes_.push_back(std::move(*node));
  }

  const std::shared_ptr<Directory> sys_;
  Nodes& nodes_;
};

}  // namespace uvfio::nodes
