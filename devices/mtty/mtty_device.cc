#include "devices/mtty/mtty_device.h"

#include <linux/vfio.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "pci/layout.h"

namespace uvfio::mtty {
namespace {

using pci::ConfigField;
using pci::ConfigRegister;

constexpr std::size_t kConfigSize = 255;  // as reported; the space itself has its 256 bytes
constexpr std::uint32_t kBarSize = Uart16550::kSize;

constexpr std::uint16_t kVendor = 0x4348;
constexpr std::uint16_t kDevice = 0x3253;

// PCI 4348:3253, a 16550-compatible serial controller on INTA#, without capabilities. The command
// register is fixed: I/O decoding is on, and the card never masters the bus.
constexpr std::array kConfigFields{
    pci::read_only(ConfigRegister::vendor_id, 2, kVendor),
    pci::read_only(ConfigRegister::device_id, 2, kDevice),
    pci::read_only(ConfigRegister::command, 2, pci::kCommandIo),
    pci::read_only(ConfigRegister::status, 2, pci::kStatusDevselMedium),
    pci::read_only(ConfigRegister::revision_id, 1, 0x10),
    pci::read_only(ConfigRegister::programming_interface, 1, 0x02),
    pci::read_only(ConfigRegister::class_code, 2, 0x0700),
    pci::read_only(ConfigRegister::subsystem_vendor_id, 2, kVendor),
    pci::read_only(ConfigRegister::subsystem_id, 2, kDevice),
    pci::read_write(ConfigRegister::interrupt_line, 1),
    pci::read_only(ConfigRegister::interrupt_pin, 1, 1),
    // Data of the vendor, of no known meaning.
    ConfigField{.offset = 0x40, .width = 4, .value = 0x80000023},
    ConfigField{.offset = 0x44, .width = 1, .value = 0x23},
    ConfigField{.offset = 0x48, .width = 1, .value = 0x23},
    ConfigField{.offset = 0x4c, .width = 1, .value = 0x23},
};
constexpr std::uint16_t kNameOffset = 0x60;
constexpr std::string_view kName = "PCI Serial/UART";

constexpr std::uint16_t bar_offset(std::size_t index) {
  return static_cast<std::uint16_t>(offset_of(ConfigRegister::bar0) + 4 * index);
}

bool has_interrupts(std::uint32_t index) {
  return index == VFIO_PCI_INTX_IRQ_INDEX || index == VFIO_PCI_MSI_IRQ_INDEX;
}

}  // namespace

MttyDevice::MttyDevice(unsigned ports, PortReservation reservation)
    : reservation_(std::move(reservation)),
      ports_(ports),
      config_(256, kConfigFields),
      interrupts_(1),
      migration_(mutex_, ports_) {
  config_.declare(kNameOffset, kName);
  for (unsigned i = 0; i < ports; ++i) config_.declare(pci::io_bar(i, kBarSize));
}

void MttyDevice::close_device() {
  migration_.close();
  interrupts_.disable();
}

vfio::DeviceInfo MttyDevice::info() {
  return {.flags = VFIO_DEVICE_FLAGS_PCI,
          .num_regions = VFIO_PCI_NUM_REGIONS,
          .num_irqs = VFIO_PCI_NUM_IRQS};
}

Result<vfio::RegionInfo> MttyDevice::region_info(std::uint32_t index) {
  if (index >= VFIO_PCI_NUM_REGIONS) return fail(EINVAL);
  return vfio::RegionInfo{.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                          .size = region_size(index),
                          .offset = pci::region_offset(index),
                          .capabilities = {}};
}

Result<vfio::IrqInfo> MttyDevice::irq_info(std::uint32_t index) {
  switch (index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
      return vfio::IrqInfo{
          .flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED,
          .count = 1};
    case VFIO_PCI_MSI_IRQ_INDEX:
      return vfio::IrqInfo{.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE, .count = 1};
    default:
      return fail(EINVAL);
  }
}

Result<std::uint32_t> MttyDevice::irq_limit(std::uint32_t index) {
  // The sample takes the number of indexes for each of them, so that what is in excess or has no
  // interrupts gets its answer from set_irqs().
  if (index >= VFIO_PCI_NUM_IRQS) return fail(EINVAL);
  return VFIO_PCI_NUM_IRQS;
}

Result<int> MttyDevice::set_irqs(const vfio::IrqSet& set) {
  // To do nothing, or several things at once, is nothing to the sample and no error.
  if (has_interrupts(set.index) && !std::has_single_bit(set.action())) return 0;
  return interrupts_.set_irqs(set);
}

Status MttyDevice::reset() {
  migration_.reset();
  return {};
}

Result<std::size_t> MttyDevice::read(std::uint64_t position, std::span<std::byte> data) {
  std::size_t width = 0;
  for (std::size_t done = 0; done < data.size(); done += width) {
    width = pci::access_width(position + done, data.size() - done);
    if (!read_piece(position + done, data.subspan(done, width))) return fail(EFAULT);
  }
  return data.size();
}

Result<std::size_t> MttyDevice::write(std::uint64_t position, std::span<const std::byte> data) {
  std::size_t width = 0;
  for (std::size_t done = 0; done < data.size(); done += width) {
    width = pci::access_width(position + done, data.size() - done);
    if (!write_piece(position + done, data.subspan(done, width))) return fail(EFAULT);
  }
  return data.size();
}

std::uint64_t MttyDevice::region_size(std::uint32_t index) const {
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return kConfigSize;
  return index < ports_.size() ? kBarSize : 0;
}

Status MttyDevice::read_piece(std::uint64_t position, std::span<std::byte> data) {
  const auto [index, offset] = pci::split_position(position);
  const std::lock_guard lock(mutex_);
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return config_.read(offset, data);
  if (index >= ports_.size()) return fail(EFAULT);
  // An access of any width is one of the register that it starts at; there is nothing behind the
  // last one.
  std::ranges::fill(data, std::byte{0});
  if (offset >= Uart16550::kSize) return {};
  const Uart16550::Read result = ports_[index].read(static_cast<unsigned>(offset));
  data[0] = std::byte{result.value};
  raise(result.interrupts);
  return {};
}

Status MttyDevice::write_piece(std::uint64_t position, std::span<const std::byte> data) {
  const auto [index, offset] = pci::split_position(position);
  const std::lock_guard lock(mutex_);
  if (index == VFIO_PCI_CONFIG_REGION_INDEX) return write_config(offset, data);
  if (index >= ports_.size()) return fail(EFAULT);
  if (offset >= Uart16550::kSize) return {};
  raise(ports_[index].write(static_cast<unsigned>(offset), std::to_integer<std::uint8_t>(data[0])));
  return {};
}

Status MttyDevice::write_config(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < ports_.size() && data.size() == sizeof value; ++i) {
    if (offset != bar_offset(i)) continue;
    // The sample sizes its BARs, and otherwise keeps what is written, unaligned and with bits that
    // PCI has for other uses. Those of the I/O indicator stay once they are set.
    std::memcpy(&value, data.data(), sizeof value);
    if (value == 0xffff'ffff) value = ~(kBarSize - 1);
    config_.set(offset, 4, value | (config_.get(offset, 4) & 0x3));
    return {};
  }
  return config_.write(offset, data);
}

void MttyDevice::raise(unsigned interrupts) {
  for (; interrupts != 0; --interrupts) interrupts_.raise();
}

}  // namespace uvfio::mtty
