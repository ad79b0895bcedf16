// The interrupt hardware of a function: pin, MSI, MSI-X with its table and pending bits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "uvfio/pci.h"

namespace uvfio::pci {

// Where a function's interrupts go: set by the driver. Called from the model's threads, with the
// function's interrupt lock held: do not call the function from here (except intx_asserted()).
class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // A message (MSI or MSI-X, whichever is enabled) with an unmasked vector.
  virtual void message(unsigned vector) = 0;
  // The pin has changed to this level.
  virtual void intx(bool asserted) = 0;
};

// Thread-safe; takes no lock but its own.
class InterruptUnit {
 public:
  // What the driver has written to the capabilities and the command register.
  struct Control {
    bool intx_disabled = false;
    bool msi_enabled = false;
    unsigned msi_vectors = 1;  // allocated: 2^MME
    std::uint32_t msi_mask = 0;
    bool msix_enabled = false;
    bool msix_function_mask = false;
  };

  explicit InterruptUnit(const Description& description);

  void set_sink(InterruptSink* sink);
  void control(const Control& control);
  void reset();

  void raise(unsigned vector);
  void set_intx(bool asserted);

  [[nodiscard]] InterruptMode mode() const { return mode_.load(std::memory_order_acquire); }
  [[nodiscard]] bool intx_asserted() const { return pin_.load(std::memory_order_acquire); }
  // Interrupt Status: the level before DisINTx.
  [[nodiscard]] bool intx_level() const { return level_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint32_t msi_pending();

  // Aligned accesses of 1, 2, 4 or 8 bytes inside the table (16 bytes a vector) and the pending bits.
  [[nodiscard]] std::uint64_t read_table(std::uint32_t offset, unsigned width);
  void write_table(std::uint32_t offset, unsigned width, std::uint64_t value);
  [[nodiscard]] std::uint64_t read_pending(std::uint32_t offset, unsigned width);
  void set_vector_masked(unsigned vector, bool masked);

 private:
  void send_or_keep_locked(unsigned vector);
  void send_pending_locked();
  void update_pin_locked();
  [[nodiscard]] bool masked_locked(unsigned vector) const;

  const bool has_pin_;
  std::atomic<InterruptMode> mode_{InterruptMode::none};
  std::atomic<bool> level_{false};
  std::atomic<bool> pin_{false};

  std::mutex mutex_;  // guards the rest
  InterruptSink* sink_ = nullptr;
  Control control_;
  std::uint32_t msi_pending_ = 0;
  std::vector<std::byte> table_;
  std::vector<std::uint64_t> msix_pending_;
};

}  // namespace uvfio::pci
