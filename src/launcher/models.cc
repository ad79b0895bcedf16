#include "launcher/models.h"

#include <array>

#include "devices/mtty/mtty.h"
#include "devices/nvme/nvme.h"

namespace uvfio::launcher {
namespace {

class MttyModel final : public Model {
 public:
  static Result<std::unique_ptr<Model>> add(Host& host, const ModelSettings&) {
    auto model = std::make_unique<MttyModel>(host);
    auto parent = mtty::register_mtty(host.mdev(), model->driver_);
    if (!parent) return std::unexpected(parent.error());
    model->parent_ = std::move(*parent);
    return model;
  }
  explicit MttyModel(Host& host) : host_(host) {}
  ~MttyModel() override {
    if (!parent_) return;
    host_.mdev().unregister_parent(parent_);
    host_.mdev().unregister_driver(driver_);
  }

 private:
  Host& host_;
  mtty::MttyDriver driver_;
  std::shared_ptr<mdev::Parent> parent_;
};

class NvmeModel final : public Model {
 public:
  static Result<std::unique_ptr<Model>> add(Host& host, const ModelSettings& settings) {
    auto model = std::make_unique<NvmeModel>(host, settings.nvme_directory);
    auto parent = nvme::register_nvme(host.mdev(), model->driver_);
    if (!parent) return std::unexpected(parent.error());
    model->parent_ = std::move(*parent);
    return model;
  }
  NvmeModel(Host& host, const std::string& directory) : host_(host), driver_(directory) {}
  ~NvmeModel() override {
    if (!parent_) return;
    host_.mdev().unregister_parent(parent_);
    host_.mdev().unregister_driver(driver_);
  }

 private:
  Host& host_;
  nvme::NvmeDriver driver_;
  std::shared_ptr<mdev::Parent> parent_;
};

struct Entry {
  std::string_view name;
  Result<std::unique_ptr<Model>> (*add)(Host&, const ModelSettings&);
};

constexpr std::array kModels{
    Entry{"mtty", MttyModel::add},
    Entry{"nvme", NvmeModel::add},
};

}  // namespace

Outcome<std::vector<std::unique_ptr<Model>>> add_models(Host& host, const ModelSettings& settings) {
  std::vector<std::unique_ptr<Model>> models;
  for (const Entry& entry : kModels) {
    auto model = entry.add(host, settings);
    if (!model)
      return failure("cannot register the parent {}: {}", entry.name,
                     strerror(value(model.error())));
    models.push_back(std::move(*model));
  }
  return models;
}

std::vector<OfferedType> offered_types(Host& host) {
  std::vector<OfferedType> types;
  for (const auto& parent : host.mdev().parents()) {
    for (const auto& type : parent->types()) types.push_back({.parent = parent, .type = &type});
  }
  return types;
}

}  // namespace uvfio::launcher
