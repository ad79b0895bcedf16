// Mediated NVMe disks: a parent whose types are disk sizes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "uvfio/mdev.h"

namespace uvfio::nvme {

// Disks are sparse files. With a directory of the user's, a disk is DIRECTORY/<UUID>.img: it stays
// when its device is removed, and is found again by its UUID. Without one, disks have no names and
// go with their devices.
class NvmeDriver final : public mdev::Driver {
 public:
  explicit NvmeDriver(std::string directory);

  [[nodiscard]] std::string name() const override { return "nvme"; }
  [[nodiscard]] std::string device_api() const override { return "vfio-pci"; }
  // As many as the file system has space for, filled to the brim.
  [[nodiscard]] std::optional<unsigned> get_available(const mdev::Parent& parent,
                                                      const mdev::Type& type) override;
  [[nodiscard]] std::optional<std::string> show_description(const mdev::Type& type) override;
  // ENOSPC: no space. EBUSY: another server has the disk. EINVAL: a file of this name has another
  // size.
  [[nodiscard]] Result<std::unique_ptr<vfio::DeviceOps>> probe(mdev::Device& device) override;
  void remove(mdev::Device& device) override;

  // The parent at devices/virtual/nvme/nvme.
  [[nodiscard]] static mdev::ParentInfo parent_info();

 private:
  [[nodiscard]] std::uint64_t free_locked() const;

  const bool keep_;  // before directory_, which takes the parameter's value
  const std::string directory_;
  mutable std::mutex mutex_;             // guards the rest
  std::map<Uuid, std::uint64_t> sizes_;  // of the devices there are
};

// Registers the driver and its parent with `bus`. Taken back by unregister_parent and then
// unregister_driver.
[[nodiscard]] Result<std::shared_ptr<mdev::Parent>> register_nvme(mdev::Bus& bus,
                                                                  NvmeDriver& driver);

}  // namespace uvfio::nvme
