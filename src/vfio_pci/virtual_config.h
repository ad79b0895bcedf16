// The configuration space that a client sees (vfio_pci_config.c): some bits are the hardware's,
// some are kept here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "uvfio/error.h"
#include "vfio_pci/hardware_config.h"
#include "vfio_pci/permissions.h"

namespace uvfio::vfio_pci {

// What the host has given a base address register: sizing is emulated from it.
struct BarResource {
  std::uint64_t size = 0;   // bytes, a power of two; 0: nothing
  std::uint32_t flags = 0;  // PCI_BASE_ADDRESS_*, the bits below the address
};
using BarResources = std::array<BarResource, 7>;  // the expansion ROM is the last

// What a trapped write asks the driver to do. Called with the space's lock held.
class ConfigEffects {
 public:
  virtual ~ConfigEffects() = default;
  // PCI power state 0 (D0) to 3 (D3hot).
  virtual void set_power_state(unsigned state) = 0;
  // A function level reset; configuration is kept over it.
  virtual void reset_function() = 0;
  // The client's DisINTx has changed.
  virtual void set_intx_disabled(bool disabled) = 0;
  // Vectors that SET_IRQS has set MSI up with; 0: MSI is not set up.
  [[nodiscard]] virtual unsigned msi_vectors() = 0;
};

// Thread-safe.
class VirtualConfig {
 public:
  // As it is at open: the virtual bits begin with what the hardware says. Both outlive this.
  VirtualConfig(HardwareConfig& hardware, ConfigEffects& effects, const BarResources& resources);

  // EFAULT: some byte lies outside; what comes before it has been done. Pieces that take no write
  // drop it.
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> data);
  [[nodiscard]] Status write(std::uint64_t offset, std::span<const std::byte> data);

  // The client's interrupt pin register: 0 without INTx.
  [[nodiscard]] std::uint8_t interrupt_pin() const { return interrupt_pin_; }

 private:
  // A run of bytes with one meaning: the header, a capability.
  struct Section {
    std::uint16_t start = 0;
    Trap trap = Trap::none;
  };
  // A naturally aligned access within one section.
  struct Piece {
    std::uint16_t position = 0;
    unsigned width = 0;
    std::uint32_t value = 0;  // of a write
    // Does it touch byte `offset` of the section that starts at `start`?
    [[nodiscard]] bool covers(std::uint16_t start, unsigned offset) const {
      return position <= start + offset && start + offset < position + width;
    }
  };

  void fill(std::uint16_t position, std::uint16_t length);
  void permit(std::uint16_t start, std::uint16_t length,
              std::span<const RegisterPermission> registers);
  void add_section(std::uint16_t start, std::uint16_t length, Trap trap);
  void add_capability(bool extended, const CapabilityPermission& capability, std::uint16_t start,
                      std::uint16_t length);
  void walk_standard();
  void walk_extended();
  [[nodiscard]] bool has_extended_list();

  [[nodiscard]] Piece next_piece(std::uint64_t position, std::size_t left) const;
  std::uint32_t read_piece(const Piece& piece);
  void write_piece(const Piece& piece);
  void store(const Piece& piece);

  // What a trap does after (the header's: around) the store. `start` is the section's.
  void write_header(const Piece& piece);
  void after_power_management(const Piece& piece, std::uint16_t start);
  void after_vital_product_data(const Piece& piece, std::uint16_t start);
  void after_express(std::uint16_t start, std::uint16_t old_control);
  void after_advanced_features(std::uint16_t start);
  void after_msi(const Piece& piece, std::uint16_t start);
  void size_bars();
  void restore_bars_if_lost(std::uint16_t command);

  // Of the client's space: what is kept here.
  [[nodiscard]] std::uint32_t kept(std::uint16_t position, unsigned width) const;
  void keep(std::uint16_t position, unsigned width, std::uint32_t value);
  [[nodiscard]] static std::uint32_t get(std::span<const std::uint8_t> bytes,
                                         std::uint16_t position, unsigned width);

  HardwareConfig& hardware_;
  ConfigEffects& effects_;
  const BarResources resources_;
  std::uint8_t interrupt_pin_ = 0;

  std::mutex mutex_;  // guards the rest
  std::vector<std::uint8_t> kept_;
  std::vector<std::uint8_t> virtual_;   // bits that are kept_'s
  std::vector<std::uint8_t> writable_;  // bits that a client can change
  std::vector<Section> sections_;       // the header first
  std::vector<std::uint16_t> section_;  // of each byte; kUnclaimed: none
  std::array<std::uint32_t, 7> hardware_bars_{};
  bool intx_disabled_ = false;
};

}  // namespace uvfio::vfio_pci
