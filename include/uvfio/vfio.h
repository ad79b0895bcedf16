// Containers, groups and devices: the kernel's vfio.ko as objects. The embedded door is this
// header: what a client does with ioctls, a program that links libuvfio does with these calls.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "uvfio/device.h"
#include "uvfio/dma.h"
#include "uvfio/error.h"
#include "uvfio/iommu_group.h"

namespace uvfio::iommu {
class Driver;
class Iommu;
}  // namespace uvfio::iommu

namespace uvfio::vfio {

class Container;
class Device;
class DeviceFile;
class Group;
class GroupFile;
class Vfio;

// One open of /dev/vfio/vfio (vfio_container). Kept alive by its opener and by every group in it;
// dropping the last reference releases all mappings. Thread-safe.
class Container {
 public:
  Container(Vfio& vfio, unsigned number) : vfio_(vfio), number_(number) {}
  ~Container();
  Container(const Container&) = delete;

  // What logs and `uvfio inspect` call it; never used twice.
  [[nodiscard]] unsigned number() const { return number_; }

  // VFIO_CHECK_EXTENSION: 0, or what the IOMMU driver says.
  [[nodiscard]] int check_extension(std::uint64_t extension);
  // VFIO_SET_IOMMU.
  [[nodiscard]] Status set_iommu(std::uint64_t type);
  // The groups in it, in order of attachment.
  [[nodiscard]] std::vector<unsigned> group_ids() const;
  // The IOMMU, or nullptr as long as none is set.
  [[nodiscard]] std::shared_ptr<iommu::Iommu> iommu() const;

 private:
  friend class Group;
  friend class GroupFile;
  Status attach_group(Group& group);
  void detach_group(Group& group);

  Vfio& vfio_;
  const unsigned number_;
  mutable std::shared_mutex group_lock_;
  std::vector<Group*> groups_;  // in order of attachment
  std::shared_ptr<iommu::Iommu> iommu_;
};

// An IOMMU group with at least one device (vfio_group). Thread-safe.
class Group : public std::enable_shared_from_this<Group> {
 public:
  [[nodiscard]] unsigned id() const { return iommu_group_->id(); }
  [[nodiscard]] iommu::GroupType type() const { return iommu_group_->type(); }
  [[nodiscard]] iommu::IommuGroup& iommu_group() const { return *iommu_group_; }
  // Name of the node below /dev/vfio.
  [[nodiscard]] std::string node_name() const { return std::to_string(id()); }
  // The first open of a group; EBUSY while it is open, ENODEV when its last device has gone.
  [[nodiscard]] Result<std::shared_ptr<GroupFile>> open();
  [[nodiscard]] std::vector<std::shared_ptr<Device>> devices() const;
  // The one that it is in now, or nullptr.
  [[nodiscard]] std::shared_ptr<Container> container() const;

 private:
  friend class Container;
  friend class Device;
  friend class DeviceFile;
  friend class GroupFile;
  friend class Vfio;
  explicit Group(std::shared_ptr<iommu::IommuGroup> iommu_group)
      : iommu_group_(std::move(iommu_group)) {}

  void detach_container_locked();
  Status use_container_locked();
  void unuse_container_locked();

  const std::shared_ptr<iommu::IommuGroup> iommu_group_;

  // Lock order: Group::lock_, Container::group_lock_, the IOMMU's own locks.
  mutable std::mutex lock_;
  bool opened_ = false;
  bool unplugged_ = false;  // its last device has gone
  std::shared_ptr<Container> container_;
  unsigned container_users_ = 0;    // the group file counts 1, every open device 1
  mutable std::mutex device_lock_;  // guards devices_; taken last
  std::vector<std::shared_ptr<Device>> devices_;
};

// The one open of a group. Device files keep it; dropping the last reference detaches the
// container.
class GroupFile {
 public:
  ~GroupFile();
  GroupFile(const GroupFile&) = delete;
  [[nodiscard]] Group& group() const { return *group_; }

  // VFIO_GROUP_GET_STATUS: VFIO_GROUP_FLAGS_*.
  [[nodiscard]] Result<std::uint32_t> status() const;
  // VFIO_GROUP_SET_CONTAINER; nullptr stands for a file that is no container: EBADFD, unless an
  // earlier check fails.
  [[nodiscard]] Status set_container(const std::shared_ptr<Container>& container);
  // VFIO_GROUP_UNSET_CONTAINER.
  [[nodiscard]] Status unset_container();
  // VFIO_GROUP_GET_DEVICE_FD. `self` is this object's own reference.
  [[nodiscard]] static Result<std::shared_ptr<DeviceFile>> get_device(
      const std::shared_ptr<GroupFile>& self, std::string_view name);

 private:
  friend class Group;
  explicit GroupFile(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  std::shared_ptr<Group> group_;
};

// A device that a driver has registered with VFIO (vfio_device). Thread-safe.
class Device : public std::enable_shared_from_this<Device> {
 public:
  [[nodiscard]] const std::string& name() const { return name_; }
  // Number of the class device vfio<N>.
  [[nodiscard]] unsigned index() const { return index_; }
  [[nodiscard]] Group& group() const { return *group_; }
  [[nodiscard]] DeviceOps& ops() const { return *ops_; }
  // Is it open now?
  [[nodiscard]] bool is_open() const;
  // Path below /sys of the device that this belongs to.
  [[nodiscard]] const std::string& sysfs_path() const { return sysfs_path_; }

  // vfio_pin_pages: `pages` of contiguous IOVA. EINVAL: nothing asked for, device not open or
  // without DmaClient. E2BIG: more than 512 pages. Otherwise as type1 says
  // (the kernel's vfio_iommu_type1_pin_pages).
  [[nodiscard]] Result<PinnedPages> pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot);
  // vfio_dma_rw, without a translation cache; for a thread that does DMA often see dma().
  [[nodiscard]] Status dma_read(std::uint64_t iova, std::span<std::byte> data);
  [[nodiscard]] Status dma_write(std::uint64_t iova, std::span<const std::byte> data);
  // EINVAL when the device is not open; ENOTTY when the container has no IOMMU that can do it.
  // While `*enabled` is false, accesses fail with EACCES (a PCI function that is no bus master).
  [[nodiscard]] Result<Dma> dma(const std::atomic<bool>* enabled = nullptr);

 private:
  friend class DeviceFile;
  friend class GroupFile;
  friend class Vfio;
  Device(std::string name, unsigned index, std::string sysfs_path, std::shared_ptr<Group> group,
         std::unique_ptr<DeviceOps> ops);

  void get();
  void put();
  Status open();
  void close();
  void set_iommu(std::shared_ptr<iommu::Iommu> iommu);
  void release_iommu();
  Result<std::shared_ptr<iommu::Iommu>> open_iommu() const;

  const std::string name_;
  const unsigned index_;
  const std::string sysfs_path_;
  const std::shared_ptr<Group> group_;
  std::unique_ptr<DeviceOps> ops_;

  mutable std::mutex device_set_lock_;
  unsigned open_count_ = 0;
  // Set while open. A lock of its own, because DMA calls come from inside open_device and
  // dma_unmap.
  mutable std::mutex iommu_lock_;
  std::shared_ptr<iommu::Iommu> iommu_;

  // References by users, for unregistration to wait for.
  std::mutex users_lock_;
  std::condition_variable users_gone_;
  unsigned users_ = 0;
};

// One descriptor of a device. A device may have many; open_device and close_device run for the
// first and the last.
class DeviceFile {
 public:
  ~DeviceFile();
  DeviceFile(const DeviceFile&) = delete;
  [[nodiscard]] Device& device() const { return *device_; }
  [[nodiscard]] DeviceOps& ops() const { return device_->ops(); }

 private:
  friend class GroupFile;
  DeviceFile(std::shared_ptr<GroupFile> group_file, std::shared_ptr<Device> device)
      : group_file_(std::move(group_file)), device_(std::move(device)) {}
  std::shared_ptr<GroupFile> group_file_;
  std::shared_ptr<Device> device_;
};

// Told of groups that appear and go, so that a door can show a node. Called without locks.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void group_added(const std::shared_ptr<Group>& group) { static_cast<void>(group); }
  virtual void group_removed(const std::shared_ptr<Group>& group) { static_cast<void>(group); }
};

// All of VFIO on one (emulated) host: its groups and its IOMMU drivers. Thread-safe.
class Vfio {
 public:
  // Group numbers start at `first_group`.
  explicit Vfio(unsigned first_group = 0);
  ~Vfio();
  Vfio(const Vfio&) = delete;

  void set_listener(Listener* listener) { listener_ = listener; }

  // Tried in order of registration by SET_IOMMU. Only before the first container is opened.
  void register_iommu_driver(std::unique_ptr<iommu::Driver> driver);
  [[nodiscard]] const std::vector<std::unique_ptr<iommu::Driver>>& iommu_drivers() const {
    return iommu_drivers_;
  }

  [[nodiscard]] std::shared_ptr<Container> open_container();
  [[nodiscard]] std::vector<std::shared_ptr<Container>> containers() const;
  [[nodiscard]] std::shared_ptr<Group> find_group(unsigned id) const;
  [[nodiscard]] std::vector<std::shared_ptr<Group>> groups() const;

  // vfio_register_emulated_iommu_dev: the device gets a group of its own.
  [[nodiscard]] std::shared_ptr<Device> register_emulated(std::string name, std::string sysfs_path,
                                                          std::unique_ptr<DeviceOps> ops);
  // A number for a group of real devices that some bus makes; given back by free_group_id.
  [[nodiscard]] unsigned allocate_group_id();
  void free_group_id(unsigned id);
  // vfio_register_group_dev: joins the group of `iommu_group`, which appears with its first device.
  [[nodiscard]] std::shared_ptr<Device> register_real(
      std::string name, std::string sysfs_path, std::shared_ptr<iommu::IommuGroup> iommu_group,
      std::unique_ptr<DeviceOps> ops);
  // vfio_unregister_group_dev: asks the users to go (DeviceOps::request, at once and every 10 s)
  // and waits for them. The model is destroyed on return.
  void unregister(const std::shared_ptr<Device>& device);

 private:
  std::shared_ptr<Device> add_device(std::string name, std::string sysfs_path,
                                     std::shared_ptr<iommu::IommuGroup> iommu_group,
                                     std::unique_ptr<DeviceOps> ops);

  Listener* listener_ = nullptr;
  std::vector<std::unique_ptr<iommu::Driver>> iommu_drivers_;
  mutable std::mutex mutex_;  // guards the rest
  const unsigned first_group_;
  std::set<unsigned> group_ids_;       // in use
  std::set<unsigned> device_indexes_;  // in use
  std::map<unsigned, std::shared_ptr<Group>> groups_;
  unsigned last_container_ = 0;
  std::map<unsigned, std::weak_ptr<Container>> containers_;
};

}  // namespace uvfio::vfio
