#include "vfio_pci/virtual_config.h"

#include <linux/pci_regs.h>

#include <algorithm>

namespace uvfio::vfio_pci {
namespace {

constexpr std::uint16_t kUnclaimed = 0xffff;
constexpr std::uint16_t kExtendedStart = 0x100;

// The bits of a `width` byte value.
constexpr std::uint32_t mask_of(unsigned width) { return ~std::uint32_t{0} >> (32 - 8 * width); }

}  // namespace

VirtualConfig::VirtualConfig(HardwareConfig& hardware, ConfigEffects& effects,
                             const BarResources& resources)
    : hardware_(hardware),
      effects_(effects),
      resources_(resources),
      kept_(hardware.size()),
      virtual_(hardware.size()),
      // Unclaimed bytes are the hardware's: devices hide registers there.
      writable_(hardware.size(), 0xff),
      section_(hardware.size(), kUnclaimed) {
  add_section(0, PCI_STD_HEADER_SIZEOF, Trap::header);
  fill(0, PCI_STD_HEADER_SIZEOF);
  permit(0, PCI_STD_HEADER_SIZEOF, header_permissions());
  for (unsigned i = 0; i < hardware_bars_.size(); ++i) {
    hardware_bars_[i] = hardware_.read(
        static_cast<std::uint16_t>(i < 6 ? PCI_BASE_ADDRESS_0 + 4 * i : PCI_ROM_ADDRESS), 4);
  }
  size_bars();
  interrupt_pin_ = kept_[PCI_INTERRUPT_PIN];
  walk_standard();
  if (has_extended_list()) walk_extended();
}

// What is kept begins with the hardware's values.
void VirtualConfig::fill(std::uint16_t position, std::uint16_t length) {
  for (std::uint16_t i = position; i < position + length; ++i) {
    kept_[i] = static_cast<std::uint8_t>(hardware_.read(i, 1));
  }
}

void VirtualConfig::permit(std::uint16_t start, std::uint16_t length,
                           std::span<const RegisterPermission> registers) {
  for (const RegisterPermission& reg : registers) {
    for (unsigned i = 0; i < reg.width && reg.offset + i < length; ++i) {
      virtual_[start + reg.offset + i] = static_cast<std::uint8_t>(reg.virtual_bits >> (8 * i));
      writable_[start + reg.offset + i] = static_cast<std::uint8_t>(reg.writable >> (8 * i));
    }
  }
}

void VirtualConfig::add_section(std::uint16_t start, std::uint16_t length, Trap trap) {
  std::fill_n(section_.begin() + start, length, static_cast<std::uint16_t>(sections_.size()));
  std::fill_n(virtual_.begin() + start, length, std::uint8_t{0});
  std::fill_n(writable_.begin() + start, length, std::uint8_t{0});
  sections_.push_back({.start = start, .trap = trap});
}

void VirtualConfig::add_capability(bool extended, const CapabilityPermission& capability,
                                   std::uint16_t start, std::uint16_t length) {
  add_section(start, length, capability.trap);
  fill(start, length);
  if (capability.raw_writes) std::fill_n(writable_.begin() + start, length, std::uint8_t{0xff});
  // The header: for extended ones all of its four bytes.
  const std::uint16_t header = std::min<std::uint16_t>(length, extended ? 4 : 2);
  std::fill_n(virtual_.begin() + start, header, std::uint8_t{0xff});
  std::fill_n(writable_.begin() + start, header, std::uint8_t{0});
  permit(start, length,
         capability.trap == Trap::msi
             ? msi_permissions(static_cast<std::uint16_t>(hardware_.read(start + PCI_MSI_FLAGS, 2)))
             : capability.registers);
  if (capability.trap == Trap::power_management) {
    keep(start + PCI_PM_PMC, 2, kept(start + PCI_PM_PMC, 2) & ~std::uint32_t{PCI_PM_CAP_PME_MASK});
    keep(start + PCI_PM_CTRL, 2,
         kept(start + PCI_PM_CTRL, 2) &
             ~std::uint32_t{PCI_PM_CTRL_PME_ENABLE | PCI_PM_CTRL_PME_STATUS});
  }
}

void VirtualConfig::walk_standard() {
  if ((hardware_.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) == 0) return;
  std::uint16_t link = PCI_CAPABILITY_LIST;  // whose next pointer leads here
  constexpr std::uint32_t kPointer = 0xfc;   // the low bits are reserved
  std::uint32_t position = hardware_.read(PCI_CAPABILITY_LIST, 1) & kPointer;
  bool any = false;
  // Capabilities are aligned, so that there can be only so many, whatever the hardware's list does.
  for (int left = (kExtendedStart - PCI_STD_HEADER_SIZEOF) / PCI_CAP_SIZEOF;
       position >= PCI_STD_HEADER_SIZEOF && left > 0; --left) {
    const auto start = static_cast<std::uint16_t>(position);
    const std::uint32_t next = hardware_.read(start + PCI_CAP_LIST_NEXT, 1) & kPointer;
    const auto* capability =
        find_permission(false, static_cast<std::uint16_t>(hardware_.read(start, 1)));
    std::uint16_t length = capability == nullptr
                               ? std::uint16_t{0}
                               : capability_length(hardware_, false, *capability, start);
    length = std::min<std::uint16_t>(length, kExtendedStart - start);
    if (length == 0) {
      keep(link, 1, next);
    } else {
      add_capability(false, *capability, start, length);
      link = start + PCI_CAP_LIST_NEXT;
      any = true;
    }
    position = next;
  }
  if (!any) keep(PCI_STATUS, 2, kept(PCI_STATUS, 2) & ~std::uint32_t{PCI_STATUS_CAP_LIST});
}

// Only PCI Express and PCI-X 2 functions have the extended list.
bool VirtualConfig::has_extended_list() {
  if (kept_.size() <= kExtendedStart) return false;
  const bool can = std::ranges::any_of(sections_, [this](const Section& section) {
    if (section.trap == Trap::express) return true;
    return section.trap == Trap::none && kept(section.start, 1) == PCI_CAP_ID_PCIX &&
           PCI_X_CMD_VERSION(kept(section.start + PCI_X_CMD, 2)) != 0;
  });
  return can && hardware_.read(kExtendedStart, 4) != 0;
}

void VirtualConfig::walk_extended() {
  constexpr std::uint32_t kNextMask = 0xffc0'0000;  // pointers are to aligned places
  const auto size = static_cast<std::uint16_t>(kept_.size());
  std::uint16_t position = kExtendedStart;
  std::uint16_t link = 0;  // whose next pointer leads here; 0: this is the first
  bool any = false;
  for (int left = (size - kExtendedStart) / PCI_CAP_SIZEOF; position >= kExtendedStart && left > 0;
       --left) {
    const std::uint32_t header = hardware_.read(position, 4);
    const std::uint16_t next = PCI_EXT_CAP_NEXT(header);
    const auto* capability = find_permission(true, PCI_EXT_CAP_ID(header));
    std::uint16_t length = capability == nullptr
                               ? std::uint16_t{0}
                               : capability_length(hardware_, true, *capability, position);
    length = std::min<std::uint16_t>(length, size - position);
    if (length == 0 && link != 0) {
      keep(link, 4, (kept(link, 4) & ~kNextMask) | std::uint32_t{next} << 20);
    } else {
      // The list has to begin at 0x100: what is hidden there leaves a header that means nothing.
      constexpr CapabilityPermission kPlaceholder{};
      if (length == 0) {
        add_capability(true, kPlaceholder, position, PCI_CAP_SIZEOF);
        keep(position, 4, kept(position, 4) & kNextMask);
      } else {
        add_capability(true, *capability, position, length);
        any = true;
      }
      link = position;
    }
    position = next;
  }
  if (!any) keep(kExtendedStart, 4, 0);
}

Status VirtualConfig::read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  while (!data.empty()) {
    if (offset > kept_.size() || data.size() > kept_.size() - offset) return fail(EFAULT);
    const Piece piece = next_piece(offset, data.size());
    const std::uint32_t value = read_piece(piece);
    for (unsigned i = 0; i < piece.width; ++i) data[i] = static_cast<std::byte>(value >> (8 * i));
    offset += piece.width;
    data = data.subspan(piece.width);
  }
  return {};
}

Status VirtualConfig::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  while (!data.empty()) {
    if (offset > kept_.size() || data.size() > kept_.size() - offset) return fail(EFAULT);
    Piece piece = next_piece(offset, data.size());
    for (unsigned i = 0; i < piece.width; ++i) {
      piece.value |= std::to_integer<std::uint32_t>(data[i]) << (8 * i);
    }
    write_piece(piece);
    offset += piece.width;
    data = data.subspan(piece.width);
  }
  return {};
}

VirtualConfig::Piece VirtualConfig::next_piece(std::uint64_t position, std::size_t left) const {
  // To the end of the register, the section or the request, whatever is first.
  std::size_t run = 1;
  while (run < left && (position + run) % 4 != 0 &&
         section_[position + run] == section_[position]) {
    ++run;
  }
  unsigned width = 1;
  if (run >= 4 && position % 4 == 0) {
    width = 4;
  } else if (run >= 2 && position % 2 == 0) {
    width = 2;
  }
  return {.position = static_cast<std::uint16_t>(position), .width = width};
}

std::uint32_t VirtualConfig::read_piece(const Piece& piece) {
  const std::uint32_t here = get(virtual_, piece.position, piece.width);
  const std::uint32_t value = kept(piece.position, piece.width) & here;
  if (here == mask_of(piece.width)) return value;
  return value | (hardware_.read(piece.position, piece.width) & ~here);
}

void VirtualConfig::write_piece(const Piece& piece) {
  if (section_[piece.position] == kUnclaimed) {
    hardware_.write(piece.position, piece.width, piece.value);
    return;
  }
  const Section& section = sections_[section_[piece.position]];
  switch (section.trap) {
    case Trap::none:
      return store(piece);
    case Trap::header:
      return write_header(piece);
    case Trap::power_management:
      store(piece);
      return after_power_management(piece, section.start);
    case Trap::vital_product_data:
      store(piece);
      return after_vital_product_data(piece, section.start);
    case Trap::express: {
      const auto old_control = static_cast<std::uint16_t>(kept(section.start + PCI_EXP_DEVCTL, 2));
      store(piece);
      return after_express(section.start, old_control);
    }
    case Trap::advanced_features:
      store(piece);
      return after_advanced_features(section.start);
    case Trap::msi:
      store(piece);
      return after_msi(piece, section.start);
  }
}

// Each bit goes where it belongs, or nowhere.
void VirtualConfig::store(const Piece& piece) {
  const std::uint32_t writable = get(writable_, piece.position, piece.width);
  const std::uint32_t here = writable & get(virtual_, piece.position, piece.width);
  const std::uint32_t there = writable & ~here;
  if (here != 0) {
    keep(piece.position, piece.width,
         (kept(piece.position, piece.width) & ~here) | (piece.value & here));
  }
  if (there == 0) return;
  std::uint32_t value = piece.value;
  if (there != mask_of(piece.width)) {
    value = (hardware_.read(piece.position, piece.width) & ~there) | (piece.value & there);
  }
  hardware_.write(piece.position, piece.width, value);
}

std::uint32_t VirtualConfig::kept(std::uint16_t position, unsigned width) const {
  return get(kept_, position, width);
}

// Both tolerate a capability that the end of the space cuts short.
std::uint32_t VirtualConfig::get(std::span<const std::uint8_t> bytes, std::uint16_t position,
                                 unsigned width) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < width && position + i < bytes.size(); ++i) {
    value |= std::uint32_t{bytes[position + i]} << (8 * i);
  }
  return value;
}

void VirtualConfig::keep(std::uint16_t position, unsigned width, std::uint32_t value) {
  for (unsigned i = 0; i < width && position + i < kept_.size(); ++i) {
    kept_[position + i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

}  // namespace uvfio::vfio_pci
