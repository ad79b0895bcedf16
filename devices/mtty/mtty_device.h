// The PCI serial card: UARTs behind I/O BARs, a configuration space and an interrupt.
#pragma once

#include <mutex>
#include <span>
#include <vector>

#include "devices/mtty/mtty_migration.h"
#include "devices/mtty/port_pool.h"
#include "devices/mtty/uart16550.h"
#include "pci/config_space.h"
#include "pci/interrupts.h"
#include "uvfio/device.h"

namespace uvfio::mtty {

// A device without DMA has no DMA writes to log.
class NoDmaLogging final : public vfio::DmaLogging {
 public:
  [[nodiscard]] Status start(std::span<const Range>, std::uint64_t&) override { return {}; }
  [[nodiscard]] Status stop() override { return {}; }
  [[nodiscard]] Status report(std::uint64_t, std::uint64_t, std::uint64_t, const Dirty&) override {
    return {};
  }
};

class MttyDevice final : public vfio::DeviceOps {
 public:
  // A card with 1 or 2 ports. `reservation` is only kept: where the ports have been taken from.
  explicit MttyDevice(unsigned ports, PortReservation reservation = {});

  void close_device() override;

  [[nodiscard]] vfio::DeviceInfo info() override;
  [[nodiscard]] Result<vfio::RegionInfo> region_info(std::uint32_t index) override;
  [[nodiscard]] Result<vfio::IrqInfo> irq_info(std::uint32_t index) override;
  [[nodiscard]] Result<std::uint32_t> irq_limit(std::uint32_t index) override;
  [[nodiscard]] Result<int> set_irqs(const vfio::IrqSet& set) override;
  [[nodiscard]] Status reset() override;

  [[nodiscard]] Result<std::size_t> read(std::uint64_t position,
                                         std::span<std::byte> data) override;
  [[nodiscard]] Result<std::size_t> write(std::uint64_t position,
                                          std::span<const std::byte> data) override;

  [[nodiscard]] vfio::Migration* migration() override { return &migration_; }
  [[nodiscard]] vfio::DmaLogging* dma_logging() override { return &dma_logging_; }

 private:
  [[nodiscard]] std::uint64_t region_size(std::uint32_t index) const;
  Status read_piece(std::uint64_t position, std::span<std::byte> data);
  Status write_piece(std::uint64_t position, std::span<const std::byte> data);
  Status write_config(std::uint64_t offset, std::span<const std::byte> data);
  void raise(unsigned interrupts);

  const PortReservation reservation_;
  std::mutex mutex_;  // guards ports_ and config_; held while interrupts are raised
  std::vector<Uart16550> ports_;
  pci::ConfigSpace config_;
  pci::Interrupts interrupts_;
  MttyMigration migration_;
  NoDmaLogging dma_logging_;
};

}  // namespace uvfio::mtty
