// An emulated PCI function: the hardware around a device model. Configuration space, BAR decoding,
// interrupts, power states and resets, as a driver of the host finds them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>

#include "pci/bar_memory.h"
#include "pci/config_map.h"
#include "pci/config_space.h"
#include "pci/interrupt_unit.h"
#include "uvfio/error.h"
#include "uvfio/fd.h"
#include "uvfio/pci.h"

namespace uvfio::vfio {
class Device;
}

namespace uvfio::pci {

// Thread-safe. Locks, in order: configuration, accesses (shared by BAR accesses, exclusive for
// resets), the model's own, interrupts, the sink's own.
class Function final : private Port {
 public:
  // Connects the model and resets it. EINVAL: its description contradicts itself or PCI (said in
  // the log). Otherwise what memfd_create and mmap say.
  [[nodiscard]] static Result<std::unique_ptr<Function>> create(std::unique_ptr<Model> model);
  ~Function() override;
  Function(const Function&) = delete;

  [[nodiscard]] const Description& description() const { return description_; }
  [[nodiscard]] Model& model() const { return *model_; }

  // --- Configuration space, the hardware's: the host's view.

  [[nodiscard]] std::size_t config_size() const { return map_.size; }  // bytes: 256 or 4096
  // Any bytes; split into naturally aligned 4, 2 and 1 byte accesses. EFAULT, and nothing done,
  // when any byte lies outside. A write may reset the function (FLR, D3hot -> D0).
  [[nodiscard]] Status config_read(std::uint64_t offset, std::span<std::byte> data);
  [[nodiscard]] Status config_write(std::uint64_t offset, std::span<const std::byte> data);
  // One register of 1, 2 or 4 bytes inside the space.
  [[nodiscard]] std::uint32_t config_get(std::uint16_t offset, std::uint8_t width);
  void config_set(std::uint16_t offset, std::uint8_t width, std::uint32_t value);
  // Where the capabilities are; 0: there is none.
  [[nodiscard]] const ConfigMap& config_map() const { return map_; }

  // --- BARs.

  // Bytes of BAR `bar` (0 to 5), 0 if there is none or it is the upper half of a 64-bit one.
  [[nodiscard]] std::uint64_t bar_size(unsigned bar) const;
  // [offset, offset + size) of a BAR, in naturally aligned accesses of 8, 4, 2 and 1 bytes. EINVAL:
  // not inside the BAR. EIO: a memory BAR that is not decoded now (command register, D3hot). I/O
  // BARs that are not decoded read ones and drop writes. bar == kVgaRanges: `offset` is a legacy
  // VGA address, which the caller has checked; EINVAL without Description::vga. There and at I/O
  // ports nothing answers while they are not decoded: all ones.
  [[nodiscard]] Status bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data);
  [[nodiscard]] Status bar_write(unsigned bar, std::uint64_t offset,
                                 std::span<const std::byte> data);
  // Memory decoding is on, and the function is in D0: memory BARs can be accessed.
  [[nodiscard]] bool memory_enabled() const {
    return memory_enabled_.load(std::memory_order_acquire);
  }
  // The ROM BAR's size: a power of two, 0 without ROM. Its bytes are description().rom, then 0xff.
  [[nodiscard]] std::uint64_t rom_size() const { return map_.rom_size; }
  // A sparse memfd laid out as VFIO's device file (region index << 40), with the mappable parts of
  // BARs. nullptr: nothing is mappable. While memory BARs cannot be accessed, or access through
  // mappings is denied, mappings of it raise SIGBUS; afterwards they show the memory again.
  [[nodiscard]] const Fd* mmap_backing() const { return memory_.file(); }
  void deny_mappings(bool denied);

  // --- Interrupts: what a driver of the host does with them.

  // Where interrupts go; nullptr: nowhere. On return the former sink is no longer called. Not with
  // a lock held that the sink takes.
  void set_interrupt_sink(InterruptSink* sink) { interrupts_.set_sink(sink); }
  // The pin's level after DisINTx: what the sink was told last. Takes no lock.
  [[nodiscard]] bool intx_asserted() const { return interrupts_.intx_asserted(); }
  // How many vectors the hardware has: 0 or 1 for intx.
  [[nodiscard]] unsigned vectors(InterruptMode mode) const;
  // Programs the capability as pci_alloc_irq_vectors does: vectors 0 to `count` - 1 unmasked, INTx
  // disabled. EINVAL: no such capability, or count out of range (MSI: rounded up to a power of
  // two).
  [[nodiscard]] Status enable_messages(InterruptMode mode, unsigned count);
  // MSI and MSI-X off, INTx enabled (pci_free_irq_vectors).
  void disable_messages();
  // Masks or unmasks an MSI-X entry; one that is pending is sent when unmasked.
  void set_vector_masked(unsigned vector, bool masked);

  // --- Power and resets. Each method ends with the power-on configuration space.

  // 0 (D0) or 3 (D3hot).
  [[nodiscard]] unsigned power_state();
  void set_power_state(unsigned state);  // 0 or 3; others are ignored

  // What can reset the function alone. `bus` is the bus's business (bus.h).
  [[nodiscard]] bool has_flr() const { return description_.pcie && description_.flr; }
  [[nodiscard]] bool has_pm_reset() const { return description_.power_management; }
  // As pci_reset_function: saves the configuration, resets by FLR or else by D3hot -> D0, restores.
  // Interrupts stay as configured. ENOTTY: it can do neither.
  [[nodiscard]] Status reset_function();
  // The function's part of a reset of its bus or slot: saved and restored as well.
  void hot_reset();
  // The bare reset, nothing is restored.
  void reset();

  // --- The user of the function.

  // Gives the model the DMA of `device`, which is open until detach(). EBUSY: attached already.
  [[nodiscard]] Status attach(vfio::Device& device);
  // Resets the model, so that it holds nothing of the device any more. The configuration space is
  // left as it is, but for bus mastering, which is off.
  void detach();

 private:
  Function(std::unique_ptr<Model> model, const ConfigMap& map, BarMemory memory);

  // Port, for the model.
  std::span<std::byte> bar_memory(unsigned bar) override { return memory_.bar(bar); }
  Result<vfio::Dma> dma() override;
  InterruptMode interrupt_mode() override { return interrupts_.mode(); }
  void raise(unsigned vector) override { interrupts_.raise(vector); }
  void set_intx(bool asserted) override { interrupts_.set_intx(asserted); }

  enum class Space : std::uint8_t { memory, io };
  [[nodiscard]] Result<Space> space_of(unsigned bar, std::uint64_t offset, std::size_t size) const;
  [[nodiscard]] bool decodes(Space space) const {
    return space == Space::io ? io_enabled_.load() : memory_enabled_.load();
  }
  [[nodiscard]] std::byte* plain_memory(unsigned bar, std::uint64_t offset) const;
  std::uint64_t read_piece(unsigned bar, std::uint64_t offset, unsigned width);
  void write_piece(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value);

  void config_set_locked(std::uint16_t offset, std::uint8_t width, std::uint32_t value);
  void refresh_config_locked();
  void apply_config_locked();
  void settle_mappings_locked();
  void apply_power_state_locked();
  void reset_locked();
  void reset_and_restore_locked();

  const Description& description_;  // the model's
  const ConfigMap map_;
  const ConfigSpace power_on_;
  BarMemory memory_;
  InterruptUnit interrupts_;

  std::mutex config_mutex_;  // guards config_, power_state_ and mappings_denied_
  ConfigSpace config_;
  unsigned power_state_ = 0;
  bool mappings_denied_ = false;

  std::shared_mutex access_;
  // What the configuration comes to. Changed with config_mutex_ held.
  std::atomic<bool> io_enabled_{false};
  std::atomic<bool> memory_enabled_{false};
  std::atomic<bool> bus_master_{false};

  std::mutex device_mutex_;  // guards device_
  vfio::Device* device_ = nullptr;

  // Last, so that it goes first: it may use all the rest while it lives.
  const std::unique_ptr<Model> model_;
};

}  // namespace uvfio::pci
