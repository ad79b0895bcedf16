// The writes to configuration space that mean more than a change of bits.
#include <linux/pci_regs.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "vfio_pci/virtual_config.h"

namespace uvfio::vfio_pci {
namespace {

constexpr std::uint16_t bar_register(unsigned index) {
  return static_cast<std::uint16_t>(index < 6 ? PCI_BASE_ADDRESS_0 + 4 * index : PCI_ROM_ADDRESS);
}

constexpr bool is_bar(std::uint16_t position) {
  return (position >= PCI_BASE_ADDRESS_0 && position < PCI_BASE_ADDRESS_5 + 4) ||
         (position >= PCI_ROM_ADDRESS && position < PCI_ROM_ADDRESS + 4);
}

// Sizes in the device control register: 128 bytes and powers of two upwards (PCI
// Express 4.0, 7.5.3.4).
constexpr std::uint32_t kReadRequestShift = 12;
constexpr std::uint32_t kPayloadShift = 5;
constexpr std::uint32_t kLargestSize = 5;  // 4096 bytes

}  // namespace

void VirtualConfig::write_header(const Piece& piece) {
  constexpr std::uint32_t kDecode = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
  const bool command = piece.covers(0, PCI_COMMAND);
  if (command) restore_bars_if_lost(static_cast<std::uint16_t>(piece.value));
  store(piece);
  if (command) {
    // What the client believes, to be compared with the hardware by the next write.
    keep(PCI_COMMAND, 2, (kept(PCI_COMMAND, 2) & ~kDecode) | (piece.value & kDecode));
  }
  if (command || piece.covers(0, PCI_COMMAND + 1)) {
    const bool disabled = (kept(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) != 0;
    if (disabled != std::exchange(intx_disabled_, disabled)) effects_.set_intx_disabled(disabled);
  }
  if (is_bar(piece.position)) size_bars();
}

// If the device has been reset behind our back, decoding must not come on at wrong addresses.
void VirtualConfig::restore_bars_if_lost(std::uint16_t command) {
  const std::uint32_t hardware = hardware_.read(PCI_COMMAND, 2);
  const std::uint32_t believed = kept(PCI_COMMAND, 2);
  bool lost = (command & believed & ~hardware & (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)) != 0;
  for (unsigned i = 0; i < 6 && !lost; ++i) {
    lost = hardware_bars_[i] != 0 && hardware_.read(bar_register(i), 4) != hardware_bars_[i];
  }
  if (!lost) return;
  for (unsigned i = 0; i < hardware_bars_.size(); ++i) {
    hardware_.write(bar_register(i), 4, hardware_bars_[i]);
  }
}

// As hardware does it: address bits below the size cannot be set, the type bits are fixed.
void VirtualConfig::size_bars() {
  for (unsigned i = 0; i < 6; ++i) {
    const BarResource& resource = resources_[i];
    const std::uint64_t address = ~(resource.size - 1);
    if (resource.size == 0) {
      keep(bar_register(i), 4, 0);
      continue;
    }
    keep(bar_register(i), 4,
         (kept(bar_register(i), 4) & static_cast<std::uint32_t>(address)) | resource.flags);
    if ((resource.flags & PCI_BASE_ADDRESS_SPACE) == PCI_BASE_ADDRESS_SPACE_MEMORY &&
        (resource.flags & PCI_BASE_ADDRESS_MEM_TYPE_64) != 0 && i + 1 < 6) {
      ++i;
      keep(bar_register(i), 4,
           kept(bar_register(i), 4) & static_cast<std::uint32_t>(address >> 32));
    }
  }
  const std::uint64_t rom = resources_[6].size;
  const std::uint32_t bits =
      rom == 0 ? 0 : static_cast<std::uint32_t>(~(rom - 1)) | PCI_ROM_ADDRESS_ENABLE;
  keep(PCI_ROM_ADDRESS, 4, kept(PCI_ROM_ADDRESS, 4) & bits);
}

void VirtualConfig::after_power_management(const Piece& piece, std::uint16_t start) {
  if (piece.position != start + PCI_PM_CTRL) return;
  effects_.set_power_state(piece.value & PCI_PM_CTRL_STATE_MASK);
}

// The client's flag is turned over when the access is done; if it fails, it waits in vain, as with
// hardware that does not answer.
void VirtualConfig::after_vital_product_data(const Piece& piece, std::uint16_t start) {
  if (!piece.covers(start, PCI_VPD_ADDR + 1)) return;
  const std::uint32_t address = kept(start + PCI_VPD_ADDR, 2);
  if (address % 4 != 0) return;
  const bool to_device = (address & PCI_VPD_ADDR_F) != 0;
  if (to_device) hardware_.write(start + PCI_VPD_DATA, 4, kept(start + PCI_VPD_DATA, 4));
  hardware_.write(start + PCI_VPD_ADDR, 2, address);
  // Emulated hardware answers at once or not at all.
  const bool flag = (hardware_.read(start + PCI_VPD_ADDR, 2) & PCI_VPD_ADDR_F) != 0;
  if (flag == to_device) return;
  if (!to_device) keep(start + PCI_VPD_DATA, 4, hardware_.read(start + PCI_VPD_DATA, 4));
  keep(start + PCI_VPD_ADDR, 2, address ^ PCI_VPD_ADDR_F);
}

void VirtualConfig::after_express(std::uint16_t start, std::uint16_t old_control) {
  std::uint32_t control = kept(start + PCI_EXP_DEVCTL, 2);
  if ((control & PCI_EXP_DEVCTL_BCR_FLR) != 0) {
    control &= ~std::uint32_t{PCI_EXP_DEVCTL_BCR_FLR};
    keep(start + PCI_EXP_DEVCTL, 2, control);
    if ((hardware_.read(start + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR) != 0) {
      effects_.reset_function();
    }
  }
  if (((control ^ old_control) & PCI_EXP_DEVCTL_READRQ) == 0) return;
  // The request size is the client's, but not below what the fabric moves in one packet.
  const std::uint32_t hardware = hardware_.read(start + PCI_EXP_DEVCTL, 2);
  const std::uint32_t wanted = std::max((control & PCI_EXP_DEVCTL_READRQ) >> kReadRequestShift,
                                        (hardware & PCI_EXP_DEVCTL_PAYLOAD) >> kPayloadShift);
  if (wanted > kLargestSize) return;
  hardware_.write(start + PCI_EXP_DEVCTL, 2,
                  (hardware & ~std::uint32_t{PCI_EXP_DEVCTL_READRQ}) | wanted << kReadRequestShift);
}

void VirtualConfig::after_advanced_features(std::uint16_t start) {
  constexpr std::uint32_t kCan = PCI_AF_CAP_FLR | PCI_AF_CAP_TP;
  const std::uint32_t control = kept(start + PCI_AF_CTRL, 1);
  if ((control & PCI_AF_CTRL_FLR) == 0) return;
  keep(start + PCI_AF_CTRL, 1, control & ~std::uint32_t{PCI_AF_CTRL_FLR});
  if ((hardware_.read(start + PCI_AF_CAP, 1) & kCan) == kCan) effects_.reset_function();
}

// Messages flow only when SET_IRQS has set them up, and no more of them than it has. The number
// that the hardware is capable of is shown as it is: vfio_msi_config_read is meant to lower it to
// what is enabled, but changes another word, so clients have always seen it.
void VirtualConfig::after_msi(const Piece& piece, std::uint16_t start) {
  if (!piece.covers(start, PCI_MSI_FLAGS)) return;
  const unsigned vectors = effects_.msi_vectors();
  const std::uint32_t most =
      vectors == 0 ? 0 : static_cast<std::uint32_t>(std::bit_width(vectors - 1));
  std::uint32_t flags = kept(start + PCI_MSI_FLAGS, 2);
  if (vectors == 0) flags &= ~std::uint32_t{PCI_MSI_FLAGS_ENABLE};
  if ((flags & PCI_MSI_FLAGS_QSIZE) >> 4 > most) {
    flags = (flags & ~std::uint32_t{PCI_MSI_FLAGS_QSIZE}) | most << 4;
  }
  keep(start + PCI_MSI_FLAGS, 2, flags);
  hardware_.write(start + PCI_MSI_FLAGS, 2, flags);
}

}  // namespace uvfio::vfio_pci
