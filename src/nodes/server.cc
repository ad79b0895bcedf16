#include "nodes/server.h"

#include <algorithm>
#include <cstring>

#include "nodes/devfs.h"
#include "nodes/device_files.h"
#include "nodes/fuse_server.h"
#include "nodes/open_vfio.h"
#include "nodes/process_caller.h"
#include "nodes/sysfs.h"
#include "nodes/sysfs_pci.h"
#include "nodes/tree.h"

namespace uvfio::nodes {
namespace {

class HostServer final : public Server,
                         private vfio::Listener,
                         private mdev::Listener,
                         private pci::Listener {
 public:
  HostServer(Host& host, const std::shared_ptr<Directory>& tree, std::unique_ptr<FuseServer> fuse)
      : host_(host),
        fuse_(std::move(fuse)),
        clients_{*fuse_},
        devfs_(host.vfio(), clients_, tree->make_path("dev/vfio").value()),
        sysfs_(host, tree->make_path("sys").value()),
        sysfs_pci_(host, tree->make_path("sys").value()),
        device_files_(clients_, tree->add_directory(".open", 0700).value()) {
    fuse_->watch_closes("dev/vfio");
    fuse_->watch_closes(".open");
    host_.vfio().set_listener(this);
    host_.mdev().set_listener(this);
    host_.pci().set_listener(this);
    // What was there before us. Both sides take being told twice.
    for (const auto& group : host_.vfio().groups()) {
      group_added(group);
    }
    for (const auto& parent : host_.mdev().parents()) {
      driver_registered(parent->driver());
      parent_registered(parent);
    }
    for (const auto& device : host_.mdev().devices()) {
      device_added(device);
    }
    for (pci::Driver* driver : host_.pci().drivers()) {
      pci_driver_registered(*driver);
    }
    for (const auto& device : host_.pci().devices()) {
      pci_device_added(device);
      if (pci::Driver* driver = device->driver()) {
        pci_driver_bound(*device, *driver);
      }
    }
  }

  ~HostServer() override {
    // Requests first: they use all the rest. A slow one may still end in an event.
    fuse_.reset();
    host_.vfio().set_listener(nullptr);
    host_.mdev().set_listener(nullptr);
    host_.pci().set_listener(nullptr);
  }

  const Fd& root() const override { return fuse_->root(); }
  bool passthrough() const override { return fuse_->passthrough().available(); }

  OpenFile identify(const Fd& fd) override {
    const auto node = fuse_->identify(fd);
    if (!node) {
      return {};
    }
    const OpenNode* const open = node->get();
    if (const auto* container = dynamic_cast<const OpenContainer*>(open)) {
      return container->container();
    }
    if (const auto* group = dynamic_cast<const OpenGroup*>(open)) {
      return group->group();
    }
    if (const auto* device = dynamic_cast<const OpenDevice*>(open)) {
      return device->device();
    }
    if (const auto* stream = dynamic_cast<const OpenStream*>(open)) {
      return stream->stream();
    }
    return {};
  }

  std::shared_ptr<const void> errand(std::function<bool()> wanted) override {
    return fuse_->errands().begin(std::move(wanted));
  }
  Result<Fd> open_device(std::shared_ptr<vfio::DeviceFile> file) override {
    return device_files_.open_device(std::move(file));
  }
  Result<Fd> open_stream(std::shared_ptr<vfio::MigrationStream> stream, bool readable) override {
    return device_files_.open_stream(std::move(stream), readable);
  }

 private:
  void group_added(const std::shared_ptr<vfio::Group>& group) override {
    sysfs_.group_added(group);
    devfs_.group_added(group);
  }
  void group_removed(const std::shared_ptr<vfio::Group>& group) override {
    devfs_.group_removed(group);
    sysfs_.group_removed(group);
  }
  void driver_registered(mdev::Driver& driver) override { sysfs_.driver_registered(driver); }
  void driver_unregistered(mdev::Driver& driver) override { sysfs_.driver_unregistered(driver); }
  void parent_registered(const std::shared_ptr<mdev::Parent>& parent) override {
    sysfs_.parent_registered(parent);
  }
  void parent_unregistered(const std::shared_ptr<mdev::Parent>& parent) override {
    sysfs_.parent_unregistered(parent);
  }
  void device_added(const std::shared_ptr<mdev::Device>& device) override {
    sysfs_.device_added(device);
  }
  void device_removing(const std::shared_ptr<mdev::Device>& device) override {
    sysfs_.device_removing(device);
  }
  void device_removed(const std::shared_ptr<mdev::Device>& device) override {
    sysfs_.device_removed(device);
  }

  void pci_driver_registered(pci::Driver& driver) override { sysfs_pci_.driver_registered(driver); }
  void pci_driver_unregistered(pci::Driver& driver) override {
    sysfs_pci_.driver_unregistered(driver);
  }
  void pci_device_added(const std::shared_ptr<pci::Device>& device) override {
    sysfs_pci_.device_added(device);
  }
  void pci_device_removed(const std::shared_ptr<pci::Device>& device) override {
    sysfs_pci_.device_removed(device);
  }
  void pci_driver_bound(pci::Device& device, pci::Driver& driver) override {
    sysfs_pci_.driver_bound(device, driver);
  }
  void pci_driver_unbinding(pci::Device& device, pci::Driver&) override {
    sysfs_pci_.driver_unbinding(device);
  }

  Host& host_;
  std::unique_ptr<FuseServer> fuse_;
  Clients clients_;
  Devfs devfs_;
  Sysfs sysfs_;
  SysfsPci sysfs_pci_;
  DeviceFiles device_files_;
};

void add_guest(Directory& tree, const Server::Options::Guest& guest) {
  const auto slash = guest.path.rfind('/');
  const auto parent = tree.make_path(std::string_view(guest.path).substr(0, slash));
  if (!parent) {
    return;
  }
  const std::string name = guest.path.substr(slash + 1);
  // EEXIST: one of ours has the name.
  if (guest.link_target.empty()) {
    static_cast<void>((*parent)->add_directory(name));
  } else {
    static_cast<void>((*parent)->add_link(name, guest.link_target));
  }
}

// An open file whose contents were made by the open.
class OpenText final : public OpenNode {
 public:
  explicit OpenText(std::string text) : text_(std::move(text)) {}
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    if (position >= text_.size()) return 0;
    const std::size_t size = std::min<std::size_t>(data.size(), text_.size() - position);
    std::memcpy(data.data(), text_.data() + position, size);
    return size;
  }

 private:
  const std::string text_;
};

void add_file(Directory& tree, const Server::Options::File& file) {
  const auto slash = file.path.rfind('/');
  const auto parent = tree.make_path(std::string_view(file.path).substr(0, slash));
  if (!parent) return;
  const auto opener = [contents = file.contents](pid_t, int) -> Result<std::shared_ptr<OpenNode>> {
    return std::make_shared<OpenText>(contents());
  };
  static_cast<void>((*parent)->add_device(file.path.substr(slash + 1), {.mode = 0400}, opener));
}

void add_attributes(Directory& tree, const Server::Options::Attributes& attributes) {
  const auto parent = tree.make_path(attributes.path);
  if (!parent) return;
  for (const Attribute& attribute : attributes.attributes) {
    static_cast<void>((*parent)->add_attribute(attribute));
  }
}

}  // namespace

std::expected<std::unique_ptr<Server>, std::string> Server::create(Host& host,
                                                                   const Options& options) {
  const auto tree = Directory::make_root();
  auto fuse = FuseServer::create(
      tree, {.passthrough = options.passthrough, .max_threads = options.max_threads});
  if (!fuse) {
    return std::unexpected(fuse.error());
  }
  auto server = std::make_unique<HostServer>(host, tree, std::move(*fuse));
  for (const auto& guest : options.guests) {
    add_guest(*tree, guest);
  }
  for (const auto& file : options.files) add_file(*tree, file);
  for (const auto& attributes : options.attributes) add_attributes(*tree, attributes);
  return server;
}

}  // namespace uvfio::nodes
