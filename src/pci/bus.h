// The emulated host's PCI: functions at their addresses, drivers that bind to them, IOMMU groups.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pci/function.h"
#include "uvfio/error.h"
#include "uvfio/iommu_group.h"

namespace uvfio::pci {

// segment:bus:device.function
struct Address {
  std::uint16_t segment = 0;  // domain
  std::uint8_t bus = 0;
  std::uint8_t device = 0;    // 0 to 31
  std::uint8_t function = 0;  // 0 to 7

  // "0000:01:00.0" or "01:00.0"; nothing else.
  [[nodiscard]] static std::optional<Address> parse(std::string_view text);
  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] std::uint8_t devfn() const {
    return static_cast<std::uint8_t>(device << 3 | function);
  }
  auto operator<=>(const Address&) const = default;
};

class Bus;
class Device;

// struct pci_driver. It must outlive its registration. probe and remove of one device never overlap.
class Driver {
 public:
  struct Id {  // struct pci_device_id
    static constexpr std::uint32_t kAny = 0xffffffff;
    std::uint32_t vendor = kAny;
    std::uint32_t device = kAny;
    std::uint32_t subvendor = kAny;
    std::uint32_t subdevice = kAny;
    std::uint32_t device_class = 0;
    std::uint32_t class_mask = 0;
    bool override_only = false;  // matches only by driver_override
  };

  virtual ~Driver() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual std::vector<Id> ids() const { return {}; }
  // Its devices' DMA belongs to user space (vfio-pci) or nobody (pci-stub): it does not make an IOMMU
  // group non-viable.
  [[nodiscard]] virtual bool driver_managed_dma() const { return false; }
  [[nodiscard]] virtual Status probe(Device& device) = 0;
  // May block until the users of the device have gone.
  virtual void remove(Device& device) = 0;
};

// struct pci_dev: a function in its place.
class Device {
 public:
  [[nodiscard]] const Address& address() const { return address_; }
  [[nodiscard]] const std::string& name() const { return name_; }  // "0000:01:00.0"
  [[nodiscard]] Function& function() const { return *function_; }
  [[nodiscard]] const std::shared_ptr<iommu::IommuGroup>& iommu_group() const { return group_; }
  [[nodiscard]] Bus& bus() const { return bus_; }
  // Path below /sys.
  [[nodiscard]] const std::string& sysfs_path() const { return sysfs_path_; }
  // The name of the model that it was made from.
  [[nodiscard]] const std::string& model_name() const { return model_name_; }

  // The driver that is bound, or nullptr.
  [[nodiscard]] Driver* driver() const;
  [[nodiscard]] std::string driver_override() const;

  // pci_reset_function: by the function itself, or by its bus when it is alone there. ENOTTY: neither.
  [[nodiscard]] bool can_reset() const;
  [[nodiscard]] Status reset();

 private:
  friend class Bus;
  Device(Bus& bus, Address address, std::unique_ptr<Function> function,
         std::shared_ptr<iommu::IommuGroup> group, std::string model_name);

  Bus& bus_;
  const Address address_;
  const std::string name_;
  const std::string sysfs_path_;
  const std::string model_name_;
  const std::unique_ptr<Function> function_;
  const std::shared_ptr<iommu::IommuGroup> group_;
  std::mutex driver_lock_;  // held over probe and remove (device_lock)
  // Guarded by Bus::mutex_.
  Driver* driver_ = nullptr;
  std::string driver_override_;
  bool removed_ = false;
};

// Published in a first version so that drivers can be written; see bus.cc.
class Bus {
 public:
  // The functions that a reset of `device`'s bus or slot resets, itself among them; empty: there is no
  // such reset. Functions of bus 00 sit in hot-plug slots that are reset one by one, all others are
  // reset bus by bus.
  [[nodiscard]] std::vector<std::shared_ptr<Device>> reset_set(const Device& device) const;
  // What is at an address, or nullptr.
  [[nodiscard]] std::shared_ptr<Device> find(const Address& address) const;
};

}  // namespace uvfio::pci
