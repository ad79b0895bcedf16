// The mediated serial card: a parent with 24 ports, and the driver that makes devices of them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "devices/mtty/port_pool.h"
#include "uvfio/mdev.h"

namespace uvfio::mtty {

class MttyDriver final : public mdev::Driver {
 public:
  static constexpr unsigned kPorts = 24;  // of all devices together

  [[nodiscard]] std::string name() const override { return "mtty"; }
  [[nodiscard]] std::string device_api() const override { return "vfio-pci"; }
  [[nodiscard]] std::optional<unsigned> get_available(const mdev::Parent& parent,
                                                      const mdev::Type& type) override;
  // ENOSPC: too few ports are free. EINVAL: not a type of parent_info().
  [[nodiscard]] Result<std::unique_ptr<vfio::DeviceOps>> probe(mdev::Device& device) override;

  // The parent at devices/virtual/mtty/mtty with its types, "1" and "2".
  [[nodiscard]] static mdev::ParentInfo parent_info();

 private:
  PortPool pool_{kPorts};
};

// Registers the driver and its parent with `bus`. Taken back by unregister_parent and then
// unregister_driver.
[[nodiscard]] Result<std::shared_ptr<mdev::Parent>> register_mtty(mdev::Bus& bus,
                                                                  MttyDriver& driver);

}  // namespace uvfio::mtty
