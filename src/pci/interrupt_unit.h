// The interrupt hardware of a function: pin, MSI, MSI-X with its table and pending bits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "uvfio/pci.h"

namespace uvfio::pci {

// Where a function's interrupts go: set by the driver. Called from the model's threads, with the
// function's interrupt lock held: do not call the function from here (except intx_asserted()).
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // A message (MSI or MSI-X, whichever is enabled) on an unmasked vector.
  virtual void message(unsigned vector) = 0;
  // The pin has changed to this level.
  virtual void intx(bool asserted) = 0;
};

// Thread-safe; takes no lock but its own, and the sink's.
class InterruptUnit {
 public:
  // What the driver has written to the command register and the capabilities.
  struct Control {
    bool bus_master = false;  // messages are memory writes
    bool intx_disabled = false;
    bool msi_enabled = false;
    unsigned msi_vectors = 1;  // allocated to the function
    std::uint32_t msi_mask = 0;
    bool msix_enabled = false;
    bool msix_function_mask = false;
  };

  explicit InterruptUnit(const Description& description);

  // On return the former sink is called no more. The new one is told of a pin that is asserted.
  void set_sink(InterruptSink* sink);
  void control(const Control& control);
  // As after power-on; the sink stays.
  void reset();

  // The device's side.
  void raise(unsigned vector);
  void set_intx(bool asserted);

  [[nodiscard]] InterruptMode mode() const { return mode_.load(std::memory_order_acquire); }
  // The pin, after DisINTx.
  [[nodiscard]] bool intx_asserted() const { return pin_.load(std::memory_order_acquire); }
  // Interrupt Status: before DisINTx.
  [[nodiscard]] bool intx_level() const { return level_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint32_t msi_pending();

  // Naturally aligned accesses of up to 8 bytes inside the MSI-X table (16 bytes a vector) and the
  // pending bits (8 bytes for 64 vectors).
  [[nodiscard]] std::uint64_t read_table(std::uint64_t offset, unsigned width);
  void write_table(std::uint64_t offset, unsigned width, std::uint64_t value);
  [[nodiscard]] std::uint64_t read_pending(std::uint64_t offset, unsigned width);
  [[nodiscard]] std::size_t table_size() const { return table_.size(); }
  [[nodiscard]] std::size_t pending_size() const { return msix_pending_.size() * 8; }
  void set_vector_masked(unsigned vector, bool masked);
  // The whole table, to restore it after a reset.
  [[nodiscard]] std::vector<std::byte> table();
  void set_table(std::span<const std::byte> table);

 private:
  void clear_locked();
  void send_pending_locked();
  void update_locked();
  [[nodiscard]] bool entry_masked_locked(std::size_t vector) const;

  const bool has_pin_;
  std::atomic<InterruptMode> mode_{InterruptMode::none};
  std::atomic<bool> level_{false};
  std::atomic<bool> pin_{false};

  std::mutex mutex_;  // guards the rest, and changes of the above
  InterruptSink* sink_ = nullptr;
  Control control_;
  std::uint32_t msi_pending_ = 0;
  std::vector<std::byte> table_;
  std::vector<std::uint64_t> msix_pending_;
};

}  // namespace uvfio::pci
