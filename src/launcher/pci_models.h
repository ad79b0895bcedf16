// The models that can be plugged into the host's PCI bus by name. A new one is one entry in
// pci_models.cc.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "launcher/failure.h"
#include "uvfio/pci.h"

namespace uvfio::launcher {

// What the user says about one function, by key; numbers as text, such as "0xfff".
using ModelKeys = std::map<std::string, std::string>;

struct PciModel {
  struct Key {
    std::string_view name;
    std::string_view help;
  };
  std::string_view name;
  std::string_view help;
  std::span<const Key> keys;  // all that it takes
  Outcome<std::unique_ptr<pci::Model>> (*make)(const ModelKeys& keys);

  [[nodiscard]] bool takes(std::string_view key) const {
    return std::ranges::find(keys, key, &Key::name) != keys.end();
  }
};

// Keys that each function has, whatever its model (PciRequest).
inline constexpr std::array<std::string_view, 4> kFunctionKeys{"address", "driver", "group",
                                                               "iommu"};

[[nodiscard]] std::span<const PciModel> pci_models();
// nullptr: there is none of this name.
[[nodiscard]] const PciModel* find_pci_model(std::string_view name);
// What to say of a key that neither the model nor every function has.
[[nodiscard]] std::string unknown_key(const PciModel& model, std::string_view key);
// Fails for an unknown model, an unknown key, or a value that the model does not take.
[[nodiscard]] Outcome<std::unique_ptr<pci::Model>> make_pci_model(std::string_view name,
                                                                  const ModelKeys& keys);

}  // namespace uvfio::launcher
