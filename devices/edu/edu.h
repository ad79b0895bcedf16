// The educational PCI device of QEMU (1234:11e8): identification, a liveness check, factorials,
// interrupts on demand, and a DMA engine. Written from its specification, docs/specs/edu.rst of
// QEMU; section names below are that document's.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>

#include "uvfio/pci.h"

namespace uvfio::edu {

inline constexpr std::uint64_t kDefaultDmaMask = (std::uint64_t{1} << 28) - 1;

// MMIO area of BAR 0.
enum Register : std::uint64_t {
  kIdentification = 0x00,
  kLiveness = 0x04,
  kFactorial = 0x08,
  kStatus = 0x20,
  kInterruptStatus = 0x24,
  kInterruptRaise = 0x60,
  kInterruptAcknowledge = 0x64,
  kDmaSource = 0x80,
  kDmaDestination = 0x88,
  kDmaCount = 0x90,
  kDmaCommand = 0x98,
};
inline constexpr std::uint32_t kStatusComputing = 0x01;
inline constexpr std::uint32_t kStatusInterrupt = 0x80;  // raise one after a factorial
inline constexpr std::uint64_t kDmaStart = 0x01;
inline constexpr std::uint64_t kDmaToMemory = 0x02;
inline constexpr std::uint64_t kDmaInterrupt = 0x04;
inline constexpr std::uint32_t kInterruptFactorial = 0x001;
inline constexpr std::uint32_t kInterruptDma = 0x100;
// The device's own memory, as DMA addresses name it. BAR 0 does not show it.
inline constexpr std::uint64_t kBuffer = 0x40000;
inline constexpr std::size_t kBufferSize = 4096;

class Edu final : public pci::Model {
 public:
  // `dma_mask`: the bits of an address that its DMA engine puts on the bus.
  explicit Edu(std::uint64_t dma_mask = kDefaultDmaMask);
  ~Edu() override { reset(); }

  [[nodiscard]] const pci::Description& description() const override { return description_; }
  void connect(pci::Port& port) override { port_ = &port; }
  [[nodiscard]] std::uint64_t read_bar(unsigned bar, std::uint64_t offset, unsigned width) override;
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override;
  void reset() override;

 private:
  struct DmaRegisters {
    std::uint64_t source = 0;
    std::uint64_t destination = 0;
    std::uint64_t count = 0;
    std::uint64_t command = 0;
  };

  void start_worker_locked();
  void work(const std::stop_token& stop);
  void transfer(const DmaRegisters& dma);
  void raise_locked(std::uint32_t bits);
  void acknowledge_locked(std::uint32_t bits);
  [[nodiscard]] std::uint64_t* dma_register_locked(std::uint64_t offset);

  const pci::Description description_;
  const std::uint64_t dma_mask_;
  pci::Port* port_ = nullptr;

  std::mutex mutex_;  // guards the rest but buffer_, which is the worker's
  std::condition_variable_any work_arrived_;
  std::uint32_t liveness_ = 0;
  std::uint32_t factorial_ = 0;
  std::uint32_t status_ = 0;
  std::uint32_t interrupt_status_ = 0;
  DmaRegisters dma_;
  std::array<std::byte, kBufferSize> buffer_{};
  std::jthread worker_;  // runs from the first work after a reset on
};

}  // namespace uvfio::edu
