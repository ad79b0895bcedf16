// An NVMe disk as a PCI function.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "devices/nvme/controller.h"
#include "uvfio/pci.h"

namespace uvfio::nvme {

struct DiskOptions {
  std::vector<std::string> files;  // a namespace each, at least one
  unsigned lba_size = 0;           // 512 or 4096; 0: as formatted, at first 512
  unsigned io_queues = 16;         // pairs, 1 to kMaxIoQueues
  std::string serial;              // empty: made from the files' paths
  bool mappable = false;           // registers and doorbells, for programs that do not do without
};

class Disk final : public pci::Model {
 public:
  // Opens the files. The error is a sentence.
  [[nodiscard]] static std::expected<std::unique_ptr<Disk>, std::string> create(
      const DiskOptions& options);

  [[nodiscard]] const pci::Description& description() const override { return description_; }
  void connect(pci::Port& port) override { controller_->connect(port); }
  [[nodiscard]] std::uint64_t read_bar(unsigned bar, std::uint64_t offset, unsigned width) override;
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override;
  void reset() override { controller_->reset(); }
  void hold_still(const std::function<void()>& change) override { controller_->hold_still(change); }
  void bus_master_changed(bool enabled) override { controller_->bus_master_changed(enabled); }

 private:
  Disk(pci::Description description, std::unique_ptr<Controller> controller)
      : description_(std::move(description)), controller_(std::move(controller)) {}

  const pci::Description description_;
  const std::unique_ptr<Controller> controller_;
};

}  // namespace uvfio::nvme
