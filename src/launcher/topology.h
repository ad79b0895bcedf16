// Which devices a host is to have: from options and from a TOML file (docs/topology.md).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/failure.h"
#include "uvfio/host.h"

namespace uvfio::launcher {

// One mediated device; without a UUID it gets a random one.
struct MdevRequest {
  std::string type;  // as below mdev_supported_types: "mtty-1"
  std::optional<Uuid> uuid;
};

struct Topology {
  std::vector<MdevRequest> mdevs;
};

// TYPE[:UUID].
[[nodiscard]] Outcome<MdevRequest> parse_mdev(std::string_view text);

// The text of a topology file; `name` is for messages, which give the line.
[[nodiscard]] Outcome<Topology> parse_topology(std::string_view text, std::string_view name);
[[nodiscard]] Outcome<Topology> read_topology(const std::string& path);

// Makes the devices, in order. On failure those made before remain.
[[nodiscard]] Outcome<std::vector<std::shared_ptr<mdev::Device>>> create_devices(
    Host& host, const Topology& topology);

}  // namespace uvfio::launcher
