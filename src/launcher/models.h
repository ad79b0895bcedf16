// The device models that can be put on a host by name. A new model is one line in models.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/failure.h"
#include "uvfio/host.h"

namespace uvfio::launcher {

// A model's driver and parent, on a host as long as this exists. The host outlives it.
class Model {
 public:
  virtual ~Model() = default;
};

struct ModelSettings {
  std::string nvme_directory;  // where mediated NVMe disks lie; empty: they go with their devices
};

// Puts every model's parent on the host.
[[nodiscard]] Outcome<std::vector<std::unique_ptr<Model>>> add_models(
    Host& host, const ModelSettings& settings = {});

// One mdev type that a host offers.
struct OfferedType {
  std::shared_ptr<mdev::Parent> parent;
  const mdev::Type* type = nullptr;
  [[nodiscard]] std::string id() const { return parent->type_id(*type); }
};
[[nodiscard]] std::vector<OfferedType> offered_types(Host& host);

}  // namespace uvfio::launcher
