#include "nodes/device_files.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>
#include <string>

#include "nodes/open_vfio.h"

namespace uvfio::nodes {

// A node of the hidden directory. It goes with the last file that is open there.
class DeviceFiles::Place {
 public:
  Place(BackingId backing, ino_t file) : backing_(std::move(backing)), file_(file) {}
  Place(const Place&) = delete;
  ~Place() {
    if (node_) {
      node_->remove();
    }
  }

  [[nodiscard]] int backing() const { return backing_.get(); }
  // Is `backing` what is mapped here?
  [[nodiscard]] bool shows(const Fd* backing) const { return file_ == inode_of(backing); }
  // 0: of nothing. That of a file is nobody else's as long as it is somebody's backing.
  [[nodiscard]] static ino_t inode_of(const Fd* file) {
    struct stat status {};
    return file != nullptr && fstat(file->get(), &status) == 0 ? status.st_ino : 0;
  }
  void set_node(std::shared_ptr<Node> node) { node_ = std::move(node); }
  [[nodiscard]] std::string path() const { return node_->parent()->name() + "/" + node_->name(); }

 private:
  const BackingId backing_;
  const ino_t file_;
  std::shared_ptr<Node> node_;
};

DeviceFiles::DeviceFiles(Clients& clients, std::shared_ptr<Directory> directory)
    : clients_(clients), directory_(std::move(directory)) {}

Result<std::shared_ptr<DeviceFiles::Place>> DeviceFiles::make_place(DeviceNode::Traits traits,
                                                                    const Fd* backing) {
  BackingId id;
  Passthrough& passthrough = clients_.server.passthrough();
  std::shared_ptr<Place> place;
  if (backing != nullptr && passthrough.available()) {
    auto opened = passthrough.open(*backing);
    if (!opened) {
      return std::unexpected(opened.error());
    }
    place = std::make_shared<Place>(std::move(*opened), Place::inode_of(backing));
  } else {
    place = std::make_shared<Place>(BackingId(), Place::inode_of(backing));
  }
  traits.backing = place->backing();
  const auto opener = [this](pid_t thread, int) -> Result<std::shared_ptr<OpenNode>> {
    const std::lock_guard lock(mutex_);
    if (thread != clients_.server.self().thread() || !ticket_) {
      return fail(ENXIO);
    }
    return std::exchange(ticket_, nullptr);
  };
  auto node = directory_->add_device(std::to_string(next_name_++), traits, opener);
  if (!node) {
    return std::unexpected(node.error());
  }
  place->set_node(std::move(*node));
  return place;
}

Result<Fd> DeviceFiles::open(const Place& place, std::shared_ptr<OpenNode> file, int flags) {
  SelfClient& self = clients_.server.self();
  const auto turn = self.turn();
  {
    const std::lock_guard lock(mutex_);
    ticket_ = std::move(file);
  }
  auto fd = self.open(place.path(), flags);
  std::shared_ptr<OpenNode> unused;  // goes after the lock
  const std::lock_guard lock(mutex_);
  unused = std::exchange(ticket_, nullptr);
  if (!fd) {
    spdlog::error("nodes: cannot open a device file: errno {}", value(fd.error()));
  }
  return fd;
}

Result<Fd> DeviceFiles::open_device(std::shared_ptr<vfio::DeviceFile> file) {
  const vfio::Device& device = file->device();
  std::shared_ptr<Place> place;
  {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<Place>& known = devices_[&device];
    place = known.lock();
    // One of a former client may be on its way out, with the file that this one has mapped.
    if (!place || !place->shows(file->ops().mmap_backing())) {
      // The largest size there is, so that no write ever extends the file: those would be
      // serialized.
      const DeviceNode::Traits traits{
          .mode = 0600, .size = std::numeric_limits<std::int64_t>::max(), .stream = false};
      auto made = make_place(traits, file->ops().mmap_backing());
      if (!made) {
        devices_.erase(&device);
        return std::unexpected(made.error());
      }
      place = std::move(*made);
      known = place;
    }
    std::erase_if(devices_, [](const auto& entry) { return entry.second.expired(); });
  }
  return open(*place, std::make_shared<OpenDevice>(clients_, std::move(file), place), O_RDWR);
}

Result<Fd> DeviceFiles::open_stream(std::shared_ptr<vfio::MigrationStream> stream, bool readable) {
  std::shared_ptr<Place> place;
  {
    const std::lock_guard lock(mutex_);
    auto made = make_place({.mode = 0600, .stream = true}, nullptr);
    if (!made) {
      return std::unexpected(made.error());
    }
    place = std::move(*made);
  }
  return open(*place, std::make_shared<OpenStream>(clients_, std::move(stream), place),
              readable ? O_RDONLY : O_WRONLY);
}

}  // namespace uvfio::nodes
