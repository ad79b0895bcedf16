// The mediated device framework: parents, types, bus drivers and devices (drivers/vfio/mdev).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "uvfio/attribute.h"
#include "uvfio/device.h"
#include "uvfio/error.h"
#include "uvfio/uuid.h"

namespace uvfio::vfio {
class Vfio;
}

namespace uvfio::mdev {

class Bus;
class Device;
class Driver;
class Parent;

// One kind of device that a parent can make (mdev_type).
struct Type {
  std::string sysfs_name;   // shown as "<parent driver>-<sysfs_name>"
  std::string pretty_name;  // attribute `name`
};

// A bus driver for mediated devices (mdev_driver). It must outlive its registration with the bus;
// calls may come from several threads, probe and remove of different devices in parallel.
class Driver {
 public:
  virtual ~Driver() = default;

  [[nodiscard]] virtual std::string name() const = 0;
  // "vfio-pci", "vfio-platform", "vfio-ccw", "vfio-ap" (attribute device_api).
  [[nodiscard]] virtual std::string device_api() const = 0;
  // Limit over all types of one parent. Unused when get_available answers.
  [[nodiscard]] virtual unsigned max_instances() const { return 65535; }
  // How many more of `type` this parent can make. nullopt: the core counts, see max_instances.
  [[nodiscard]] virtual std::optional<unsigned> get_available(const Parent& parent,
                                                              const Type& type) {
    static_cast<void>(parent), static_cast<void>(type);
    return std::nullopt;
  }
  // Attribute `description` of a type; nullopt: there is no such file.
  [[nodiscard]] virtual std::optional<std::string> show_description(const Type& type) {
    static_cast<void>(type);
    return std::nullopt;
  }

  // Can this driver serve the device? By default the driver that the parent was registered with.
  [[nodiscard]] virtual bool match(const Device& device) const;
  // Makes the device model. Any error is what the write to `create` returns.
  [[nodiscard]] virtual Result<std::unique_ptr<vfio::DeviceOps>> probe(Device& device) = 0;
  // The model is already closed and destroyed when this is called.
  virtual void remove(Device& device) { static_cast<void>(device); }
};

// What a parent says of itself when it registers.
struct ParentInfo {
  std::string name;         // basename in class/mdev_bus and of its directory
  std::string driver_name;  // prefix of the type directories (dev_driver_string)
  std::string sysfs_path;   // below /sys, such as "devices/virtual/mtty/mtty"
  std::string class_name;   // class that the device belongs to ("mtty"); empty: none
  std::vector<Type> types;
  std::vector<AttributeGroup> attributes;
};

// A device that can make mediated devices (mdev_parent). Owned by the bus from registration on.
class Parent {
 public:
  [[nodiscard]] const ParentInfo& info() const { return info_; }
  [[nodiscard]] std::span<const Type> types() const { return info_.types; }
  [[nodiscard]] Driver& driver() const { return *driver_; }
  // "<driver name>-<sysfs name>", the directory below mdev_supported_types.
  [[nodiscard]] std::string type_id(const Type& type) const;
  // Attribute available_instances.
  [[nodiscard]] unsigned available_instances(const Type& type) const;

 private:
  friend class Bus;
  friend class Device;
  Parent(ParentInfo info, Driver& driver);

  ParentInfo info_;
  Driver* driver_;
  std::shared_mutex unreg_sem_;  // shared: create and remove; exclusive: unregister
  bool unregistering_ = false;
  std::atomic<unsigned> instances_left_;
};

// A mediated device (mdev_device).
class Device {
 public:
  ~Device();
  [[nodiscard]] const Uuid& uuid() const { return uuid_; }
  [[nodiscard]] const std::string& name() const { return name_; }  // the UUID, lower case
  [[nodiscard]] Parent& parent() const { return *parent_; }
  [[nodiscard]] const Type& type() const { return *type_; }
  // The vfio device while a driver is bound, else nullptr.
  [[nodiscard]] const std::shared_ptr<vfio::Device>& vfio_device() const { return vfio_device_; }
  // Extra sysfs attributes; set by probe.
  std::vector<AttributeGroup> attributes;

 private:
  friend class Bus;
  Device(Bus& bus, std::shared_ptr<Parent> parent, const Type& type, const Uuid& uuid);

  Bus& bus_;
  std::shared_ptr<Parent> parent_;
  const Type* type_;
  Uuid uuid_;
  std::string name_;
  Driver* driver_ = nullptr;
  std::shared_ptr<vfio::Device> vfio_device_;
  bool active_ = false;   // guarded by Bus::list_mutex_
  bool counted_ = false;  // holds one of the parent's instances
};

// Told of what appears and goes, so that a door can show it. Called without any lock of the bus.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void driver_registered(Driver& driver) { static_cast<void>(driver); }
  virtual void driver_unregistered(Driver& driver) { static_cast<void>(driver); }
  virtual void parent_registered(const std::shared_ptr<Parent>& parent) {
    static_cast<void>(parent);
  }
  virtual void parent_unregistered(const std::shared_ptr<Parent>& parent) {
    static_cast<void>(parent);
  }
  // The device is complete: its driver is bound, its group exists.
  virtual void device_added(const std::shared_ptr<Device>& device) { static_cast<void>(device); }
  // Removal has begun, which waits for the device's users; it cannot be removed again.
  virtual void device_removing(const std::shared_ptr<Device>& device) { static_cast<void>(device); }
  // The last user has gone, and so has the model.
  virtual void device_removed(const std::shared_ptr<Device>& device) { static_cast<void>(device); }
};

// The mdev bus: all parents, drivers and devices of one host. Thread-safe.
class Bus {
 public:
  // `vfio` outlives the bus.
  explicit Bus(vfio::Vfio& vfio) : vfio_(vfio) {}
  ~Bus();
  Bus(const Bus&) = delete;

  // Not thread-safe against the other calls: set once, before the first registration.
  void set_listener(Listener* listener) { listener_ = listener; }

  // EINVAL: no device_api. EEXIST: a driver of this name is there.
  [[nodiscard]] Status register_driver(Driver& driver);
  // Its devices are unbound first, which waits for their users.
  void unregister_driver(Driver& driver);

  // EINVAL: no name, no types or an unregistered driver. EEXIST: a parent of this name.
  [[nodiscard]] Result<std::shared_ptr<Parent>> register_parent(ParentInfo info, Driver& driver);
  // Removes every device of the parent, waiting for their users (mdev_unregister_parent).
  void unregister_parent(const std::shared_ptr<Parent>& parent);

  // EEXIST: the UUID exists anywhere. EUSERS: no instance left. ENODEV: the parent is going away,
  // or no driver matches. Otherwise what the driver's probe says.
  [[nodiscard]] Result<std::shared_ptr<Device>> create(const std::shared_ptr<Parent>& parent,
                                                       const Type& type, const Uuid& uuid);
  // ENODEV: not on the bus, or the parent is going away. EAGAIN: being created or removed. Blocks
  // until the last user has closed the device.
  [[nodiscard]] Status remove(const std::shared_ptr<Device>& device);

  // Writes to `create` (36 or 37 characters) and `remove` (a number), as in sysfs.
  [[nodiscard]] Status store_create(const std::shared_ptr<Parent>& parent, const Type& type,
                                    std::string_view text);
  [[nodiscard]] Status store_remove(const std::shared_ptr<Device>& device, std::string_view text);

  [[nodiscard]] std::vector<std::shared_ptr<Parent>> parents() const;
  [[nodiscard]] std::vector<std::shared_ptr<Device>> devices() const;
  [[nodiscard]] std::shared_ptr<Device> find(const Uuid& uuid) const;

 private:
  friend class Device;
  void unbind(const std::shared_ptr<Device>& device);
  Status bind(const std::shared_ptr<Device>& device);

  vfio::Vfio& vfio_;
  Listener* listener_ = nullptr;
  mutable std::mutex list_mutex_;  // guards the three lists and Device::active_; taken last
  std::vector<Driver*> drivers_;
  std::map<std::string, std::shared_ptr<Parent>> parents_;
  std::map<Uuid, std::shared_ptr<Device>> devices_;
};

}  // namespace uvfio::mdev
