// The emulated host's PCI: functions at their addresses, drivers that bind to them, IOMMU groups.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "uvfio/error.h"
#include "uvfio/iommu_group.h"
#include "uvfio/pci.h"

namespace uvfio::vfio {
class Vfio;
}

namespace uvfio::pci {

class AddressSpace;
class Bus;
class Device;
class Function;

// segment:bus:device.function
struct Address {
  std::uint16_t segment = 0;  // sysfs and Linux say "domain"
  std::uint8_t bus = 0;
  std::uint8_t device = 0;    // 0 to 31
  std::uint8_t function = 0;  // 0 to 7

  // "0000:01:00.0" or, in segment 0, "01:00.0".
  [[nodiscard]] static std::optional<Address> parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] bool same_slot(const Address& other) const {
    return segment == other.segment && bus == other.bus && device == other.device;
  }
  auto operator<=>(const Address&) const = default;
};

// Physical addresses of a BAR (struct resource); flags 0: there is none.
struct Resource {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::uint64_t flags = 0;  // IORESOURCE_*
};
using Resources = std::array<Resource, 7>;  // BARs 0 to 5, ROM

// What a driver serves (struct pci_device_id).
struct Id {
  static constexpr std::uint32_t kAny = 0xffffffff;
  std::uint32_t vendor = kAny;
  std::uint32_t device = kAny;
  std::uint32_t subvendor = kAny;
  std::uint32_t subdevice = kAny;
  std::uint32_t class_code = 0;
  std::uint32_t class_mask = 0;
  unsigned long driver_data = 0;

  [[nodiscard]] bool matches(const Description& function) const;
};

// struct pci_driver. It must outlive its registration. probe and remove of one device never
// overlap.
class Driver {
 public:
  virtual ~Driver() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual std::vector<Id> ids() const { return {}; }
  // Its devices' DMA is not the host's: it belongs to user space (vfio-pci) or to nobody
  // (pci-stub), so that it does not make an IOMMU group unusable for VFIO.
  [[nodiscard]] virtual bool driver_managed_dma() const { return false; }
  [[nodiscard]] virtual Status probe(Device& device) = 0;
  // May block until the users of the device have gone.
  virtual void remove(Device& device) = 0;
};

// struct pci_dev: a function in its place, as the host found it. Thread-safe.
class Device : public std::enable_shared_from_this<Device> {
 public:
  ~Device();
  [[nodiscard]] const Address& address() const { return address_; }
  [[nodiscard]] const std::string& name() const { return name_; }  // "0000:01:00.0"
  [[nodiscard]] Function& function() const { return *function_; }
  [[nodiscard]] const std::shared_ptr<iommu::IommuGroup>& iommu_group() const { return group_; }
  [[nodiscard]] const Resources& resources() const { return resources_; }
  [[nodiscard]] Bus& bus() const { return bus_; }
  [[nodiscard]] const std::string& sysfs_path() const { return sysfs_path_; }  // below /sys

  // The driver that is bound, or nullptr.
  [[nodiscard]] Driver* driver() const;
  [[nodiscard]] std::optional<std::string> driver_override() const;
  // Text as written to sysfs: up to a newline; nothing there: no override. EINVAL: too long.
  [[nodiscard]] Status set_driver_override(std::string_view text);

  // Enables the function's decoding (pci_enable_device), counted; `disable` undoes one. EIO: it was
  // not enabled.
  void enable();
  [[nodiscard]] Status disable();
  [[nodiscard]] unsigned enable_count() const { return enable_count_; }
  // Writes to `enable` of sysfs. EBUSY: a driver is bound.
  [[nodiscard]] Status store_enable(bool on);

  // How reset() works, by name: "flr", "pm", "bus"; the first is taken. Empty: not at all.
  [[nodiscard]] std::vector<std::string> reset_methods() const;
  // pci_reset_function. ENOTTY: there is no way.
  [[nodiscard]] Status reset();

 private:
  friend class Bus;
  Device(Bus& bus, const Address& address, std::shared_ptr<Function> function,
         const Resources& resources, std::shared_ptr<iommu::IommuGroup> group);

  Bus& bus_;
  const Address address_;
  const std::string name_;
  const std::string sysfs_path_;
  const std::shared_ptr<Function> function_;
  const Resources resources_;
  const std::shared_ptr<iommu::IommuGroup> group_;
  std::atomic<unsigned> enable_count_{0};

  std::mutex driver_lock_;    // held over probe and remove (device_lock)
  bool removed_ = false;      // guarded by driver_lock_
  mutable std::mutex mutex_;  // guards the rest; taken last
  Driver* driver_ = nullptr;
  std::optional<std::string> driver_override_;
};

// Told of what changes, so that a door can show it. Called without the bus's lock.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void pci_driver_registered(Driver& driver) { static_cast<void>(driver); }
  virtual void pci_driver_unregistered(Driver& driver) { static_cast<void>(driver); }
  virtual void pci_device_added(const std::shared_ptr<Device>& device) {
    static_cast<void>(device);
  }
  // It has no driver any more, and will not get one.
  virtual void pci_device_removed(const std::shared_ptr<Device>& device) {
    static_cast<void>(device);
  }
  virtual void pci_driver_bound(Device& device, Driver& driver) {
    static_cast<void>(device), static_cast<void>(driver);
  }
  // Before the driver's remove().
  virtual void pci_driver_unbinding(Device& device, Driver& driver) {
    static_cast<void>(device), static_cast<void>(driver);
  }
};

// All PCI of one host: struct bus_type pci_bus_type, and the buses themselves. Thread-safe.
//
// There are no bridges to be seen: every bus is shown as a root bus. A reset of bus 00 resets one
// slot (they are hot-plug slots), of any other bus all its functions.
class Bus {
 public:
  // `vfio` numbers the groups and outlives the bus.
  explicit Bus(vfio::Vfio& vfio);
  ~Bus();
  Bus(const Bus&) = delete;

  // Not thread-safe against the other calls: set once, before the first device.
  void set_listener(Listener* listener) { listener_ = listener; }

  // --- Hardware.

  struct Place {
    Address address;
    // Functions that name the same group are in one. Empty: those of a slot.
    std::string group;
    std::shared_ptr<iommu::Unit> unit;
    std::vector<iommu::ReservedRegion> reserved;  // of the group, beside the unit's
  };
  // Plugs a function in: BARs get addresses, and the host finds it. EEXIST: the place is taken.
  // EINVAL: the description is bad, or the group is behind another unit. ENOSPC: no addresses left.
  [[nodiscard]] Result<std::shared_ptr<Device>> plug(const Place& place,
                                                     std::unique_ptr<Model> model);
  // Takes the function out of the machine, after the host has let it go. ENODEV: there is none.
  [[nodiscard]] Status unplug(const Address& address);

  // --- Devices.

  [[nodiscard]] std::shared_ptr<Device> find(const Address& address) const;
  [[nodiscard]] std::shared_ptr<Device> find(std::string_view name) const;
  [[nodiscard]] std::vector<std::shared_ptr<Device>> devices() const;
  // Unbinds its driver, which waits for its users, and forgets the device; rescan() finds it again.
  // ENODEV: done already.
  [[nodiscard]] Status remove(const std::shared_ptr<Device>& device);
  // Finds functions that are there and have no device.
  void rescan();
  // The devices that a reset of `device`'s bus (or slot) resets, itself among them.
  [[nodiscard]] std::vector<std::shared_ptr<Device>> reset_set(const Device& device) const;
  [[nodiscard]] std::vector<std::shared_ptr<iommu::IommuGroup>> groups() const;

  // --- Drivers. Texts are what is written to the sysfs files of these names.

  // EEXIST: a driver of this name is there. Devices that it matches are bound, unless autoprobe is
  // off.
  [[nodiscard]] Status register_driver(Driver& driver);
  void unregister_driver(Driver& driver);
  [[nodiscard]] std::vector<Driver*> drivers() const;
  [[nodiscard]] Driver* find_driver(std::string_view name) const;

  // ENODEV: no such device, or the driver does not match it. EBUSY: it has a driver, or VFIO owns
  // its group. Otherwise what probe says.
  [[nodiscard]] Status bind(Driver& driver, std::string_view device);
  // ENODEV: the device is not bound to this driver.
  [[nodiscard]] Status unbind(Driver& driver, std::string_view device);
  // "vendor device [subvendor subdevice [class class_mask [driver_data]]]", hexadecimal. EINVAL:
  // not that, or a driver_data that no id of the driver has. EEXIST: served already.
  [[nodiscard]] Status new_id(Driver& driver, std::string_view text);
  // ENODEV: no such dynamic id.
  [[nodiscard]] Status remove_id(Driver& driver, std::string_view text);
  // ENODEV: no such device. EINVAL: a probe could not even be tried.
  [[nodiscard]] Status drivers_probe(std::string_view device);
  void set_autoprobe(bool on) { autoprobe_ = on; }
  [[nodiscard]] bool autoprobe() const { return autoprobe_; }

 private:
  struct Hardware {
    Place place;
    std::shared_ptr<Function> function;
    Resources resources;
  };
  struct Registered {
    Driver* driver = nullptr;
    std::vector<Id> dynamic_ids;
  };

  Result<std::shared_ptr<iommu::IommuGroup>> group_locked(const Place& place);
  Result<std::shared_ptr<Device>> add_device_locked(const Hardware& hardware);
  void announce(const std::shared_ptr<Device>& device);

  [[nodiscard]] bool matches(const Driver& driver, const Device& device) const;
  // The steps of binding; the device's driver_lock_ is held.
  static Status take_dma(const Driver& driver, Device& device);
  Status probe(Driver& driver, Device& device);
  Status attach(Device& device);
  void detach(Device& device);
  void attach_all(Driver& driver);

  vfio::Vfio& vfio_;
  Listener* listener_ = nullptr;
  std::atomic<bool> autoprobe_{true};

  mutable std::mutex mutex_;                                       // guards the rest
  std::map<std::uint16_t, std::unique_ptr<AddressSpace>> spaces_;  // by segment
  std::map<Address, Hardware> hardware_;
  std::map<Address, std::shared_ptr<Device>> devices_;
  std::map<std::string, std::weak_ptr<iommu::IommuGroup>> groups_;  // by key
  std::vector<Registered> drivers_;
};

}  // namespace uvfio::pci
