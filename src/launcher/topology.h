// Which devices a host is to have: from options and from a TOML file (docs/topology.md).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/failure.h"
#include "launcher/pci_models.h"
#include "launcher/type1_settings.h"
#include "uvfio/host.h"
#include "uvfio/iommu_unit.h"

namespace uvfio::launcher {

// One mediated device; without a UUID it gets a random one.
struct MdevRequest {
  std::string type;  // as below mdev_supported_types: "mtty-1"
  std::optional<Uuid> uuid;
  std::string origin;  // FILE:LINE of its table, for messages; empty: an option's
};

// One function of the host's PCI bus.
struct PciRequest {
  std::string model;
  std::optional<pci::Address> address;  // without: the next free slot
  std::string driver = "vfio-pci";      // that it is bound to; "none": no driver
  std::string group;                    // of the IOMMU; empty: that of its slot
  std::string iommu;                    // the unit's name; empty: the first
  ModelKeys keys;                       // the model's own
  std::string origin;                   // as of MdevRequest
};

struct Topology {
  std::vector<MdevRequest> mdevs;
  std::vector<iommu::UnitProperties> iommus;
  std::vector<PciRequest> functions;
  std::vector<Type1Setting> type1;

  // Adds what `more` has.
  void append(Topology more);
};

// TYPE[:UUID].
[[nodiscard]] Outcome<MdevRequest> parse_mdev(std::string_view text);

// MODEL[,KEY=VALUE...][@ADDRESS].
[[nodiscard]] Outcome<PciRequest> parse_pci(std::string_view text);

// The text of a topology file; `name` is for messages, which give the line.
[[nodiscard]] Outcome<Topology> parse_topology(std::string_view text, std::string_view name);
[[nodiscard]] Outcome<Topology> read_topology(const std::string& path);

// Makes the devices, in order. On failure those made before remain.
[[nodiscard]] Outcome<std::vector<std::shared_ptr<mdev::Device>>> create_devices(
    Host& host, const Topology& topology);

}  // namespace uvfio::launcher
