// What a PCI device model is written against. A model is registers and a state machine; config
// space, capabilities, BAR decoding, interrupts, resets and the VFIO side are the library's
// (src/pci). The same model serves as a direct function of the emulated host and as a mediated
// device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "uvfio/dma.h"
#include "uvfio/error.h"

namespace uvfio::pci {

// A base address register.
struct Bar {
  enum class Kind : std::uint8_t { none, io, memory32, memory64 };  // memory64 takes two registers
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;  // bytes
  };
  Kind kind = Kind::none;
  std::uint64_t size = 0;  // bytes, a power of two
  bool prefetchable = false;
  // Parts that clients may map: whole pages, ascending, disjoint, no MSI-X table in them. They are
  // plain memory (Port::bar_memory): accesses to them, mapped or not, never reach the model.
  std::vector<Range> mappable;
  // Accesses to mappable parts that are not made through a mapping do reach the model, which keeps
  // bar_memory to what they mean: for registers that are mappable and watched.
  bool trap_unmapped = false;
};

// The MSI-X capability: table and pending bits in a memory BAR of the model's choice. The library
// answers accesses to both.
struct MsiX {
  std::uint16_t vectors = 0;  // 1 to 2048
  std::uint8_t table_bar = 0;
  std::uint32_t table_offset = 0;
  std::uint8_t pba_bar = 0;
  std::uint32_t pba_offset = 0;
};

// A vendor-specific or other capability with the bits that a driver may write. `body` follows the
// two bytes of id and next pointer; `writable` has the same length or is empty.
struct ExtraCapability {
  std::uint8_t id = 0;
  std::vector<std::uint8_t> body;
  std::vector<std::uint8_t> writable;
};

// Everything about a function that does not change while it lives.
struct Description {
  std::uint16_t vendor_id = 0;
  std::uint16_t device_id = 0;
  std::uint16_t subsystem_vendor_id = 0;
  std::uint16_t subsystem_id = 0;
  std::uint8_t revision_id = 0;
  std::uint32_t class_code = 0;  // 24 bits: class, subclass, programming interface
  std::array<Bar, 6> bars;
  std::vector<std::byte> rom;  // expansion ROM image
  bool vga = false;            // decodes the legacy VGA ranges; has VFIO's VGA region
  bool intx = false;           // has interrupt pin A
  unsigned msi_vectors = 0;    // 0: no MSI capability; 1, 2, 4, 8, 16 or 32
  bool msi_maskable = true;    // MSI with a mask bit for each vector
  std::optional<MsiX> msix;
  bool power_management = true;  // PM capability; D3hot -> D0 resets
  bool pcie = true;              // PCI Express endpoint, 4 KiB of configuration space
  bool flr = true;               // function level reset (needs pcie)
  std::vector<ExtraCapability> capabilities;
};

// In place of a BAR's number, where Description::vga: the legacy VGA ranges; the offset is the
// legacy address (memory 0xa0000 to 0xbffff, I/O ports 0x3b0 to 0x3bb and 0x3c0 to 0x3df).
inline constexpr unsigned kVgaRanges = 8;

enum class InterruptMode : std::uint8_t { none, intx, msi, msix };

// The model's way out: what the library does for it. Valid as long as the model lives. Thread-safe.
class Port {
 public:
  virtual ~Port() = default;

  // Memory behind the mappable parts of a BAR, the whole BAR's size from its offset 0; empty if
  // nothing of it is mappable. Clients write it at any time: read it with atomics, once. A model
  // with threads that write it overrides Model::hold_still.
  [[nodiscard]] virtual std::span<std::byte> bar_memory(unsigned bar) = 0;

  // A DMA engine; one for each thread or queue. Accesses fail with EACCES while the function is no
  // bus master. Fails itself (ENXIO) while nobody has the function open. Drop it before reset()
  // returns.
  [[nodiscard]] virtual Result<vfio::Dma> dma() = 0;

  // What the driver has enabled now. It may change at any time.
  [[nodiscard]] virtual InterruptMode interrupt_mode() = 0;
  // Sends message `vector` by MSI or MSI-X, whichever is on; lost if neither is (or the vector is
  // not).
  virtual void raise(unsigned vector) = 0;
  // Level of the interrupt pin.
  virtual void set_intx(bool asserted) = 0;
};

// A device model. BAR accesses may come from several threads at once, and beside its own threads.
class Model {
 public:
  virtual ~Model() = default;

  [[nodiscard]] virtual const Description& description() const = 0;
  // Called once, before anything else. Threads come later, with the first access or
  // bus_master_changed(true).
  virtual void connect(Port& port) = 0;

  // A naturally aligned access of 1, 2, 4 or 8 bytes inside the BAR, in a part that is neither
  // mappable (but for trap_unmapped) nor MSI-X table or pending bits; values are little-endian
  // numbers. Only while decoding is enabled, and never beside reset().
  [[nodiscard]] virtual std::uint64_t read_bar(unsigned bar, std::uint64_t offset,
                                               unsigned width) = 0;
  virtual void write_bar(unsigned bar, std::uint64_t offset, unsigned width,
                         std::uint64_t value) = 0;

  // Function reset (FLR, D3hot -> D0, hot reset, first open, last close): registers and bar_memory
  // as after power-on. On return no DMA is under way, no vfio::Dma or hold of the model's exists,
  // and its threads touch neither until a register access starts them again.
  virtual void reset() = 0;

  // Calls `change` once, while no thread of the model's own writes to bar_memory: the memory moves
  // to another file at the same addresses, when decoding changes and clients lose their mappings or
  // get them back. Never beside an access or reset().
  virtual void hold_still(const std::function<void()>& change) { change(); }

  // The driver has turned bus mastering on or off (command register).
  virtual void bus_master_changed(bool enabled) { static_cast<void>(enabled); }
  // Port::interrupt_mode() has changed.
  virtual void interrupt_mode_changed() {}
};

}  // namespace uvfio::pci
