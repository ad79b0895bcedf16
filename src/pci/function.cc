#include "pci/function.h"

#include <linux/pci_regs.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "pci/layout.h"
#include "uvfio/vfio.h"

namespace uvfio::pci {
namespace {

// Power states as the PMCSR encodes them.
constexpr unsigned kD0 = 0;
constexpr unsigned kD3hot = 3;

std::uint64_t load(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  std::memcpy(&value, data.data(), data.size());
  return value;
}
void store(std::span<std::byte> data, std::uint64_t value) {
  std::memcpy(data.data(), &value, data.size());
}

// Plain memory that clients share with the model: each access as one.
template <typename T>
std::atomic_ref<T> shared(std::byte* at) {
  return std::atomic_ref<T>(*reinterpret_cast<T*>(at));
}
std::uint64_t load_shared(std::byte* at, unsigned width) {
  switch (width) {
    case 1:
      return shared<std::uint8_t>(at).load(std::memory_order_acquire);
    case 2:
      return shared<std::uint16_t>(at).load(std::memory_order_acquire);
    case 4:
      return shared<std::uint32_t>(at).load(std::memory_order_acquire);
    default:
      return shared<std::uint64_t>(at).load(std::memory_order_acquire);
  }
}
void store_shared(std::byte* at, unsigned width, std::uint64_t value) {
  switch (width) {
    case 1:
      return shared<std::uint8_t>(at).store(static_cast<std::uint8_t>(value),
                                            std::memory_order_release);
    case 2:
      return shared<std::uint16_t>(at).store(static_cast<std::uint16_t>(value),
                                             std::memory_order_release);
    case 4:
      return shared<std::uint32_t>(at).store(static_cast<std::uint32_t>(value),
                                             std::memory_order_release);
    default:
      return shared<std::uint64_t>(at).store(value, std::memory_order_release);
  }
}

}  // namespace

Result<std::unique_ptr<Function>> Function::create(std::unique_ptr<Model> model) {
  const auto map = check_and_map(model->description());
  if (!map) return std::unexpected(map.error());
  auto memory = BarMemory::create(model->description());
  if (!memory) return std::unexpected(memory.error());
  std::unique_ptr<Function> function(new Function(std::move(model), *map, std::move(*memory)));
  function->model_->connect(*function);
  function->reset();
  return function;
}

Function::Function(std::unique_ptr<Model> model, const ConfigMap& map, BarMemory memory)
    : description_(model->description()),
      map_(map),
      power_on_(make_config_space(description_, map)),
      memory_(std::move(memory)),
      interrupts_(description_),
      config_(power_on_),
      model_(std::move(model)) {}

Function::~Function() { reset(); }

// --- Configuration space.

Status Function::config_read(std::uint64_t offset, std::span<std::byte> data) {
  const std::scoped_lock lock(config_mutex_);
  refresh_config_locked();
  return config_.read(offset, data);
}

Status Function::config_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset > map_.size || data.size() > map_.size - offset) return fail(EFAULT);
  const std::scoped_lock lock(config_mutex_);
  while (!data.empty()) {
    const std::size_t width = access_width(offset, data.size());
    config_set_locked(static_cast<std::uint16_t>(offset), static_cast<std::uint8_t>(width),
                      static_cast<std::uint32_t>(load(data.first(width))));
    offset += width;
    data = data.subspan(width);
  }
  return {};
}

std::uint32_t Function::config_get(std::uint16_t offset, std::uint8_t width) {
  const std::scoped_lock lock(config_mutex_);
  refresh_config_locked();
  return config_.get(offset, width);
}

void Function::config_set(std::uint16_t offset, std::uint8_t width, std::uint32_t value) {
  const std::scoped_lock lock(config_mutex_);
  config_set_locked(offset, width, value);
}

void Function::config_set_locked(std::uint16_t offset, std::uint8_t width, std::uint32_t value) {
  const auto bytes = std::as_bytes(std::span(&value, 1)).first(width);
  static_cast<void>(config_.write(offset, bytes));  // inside: the callers have checked
  if (has_flr() && (config_.get(map_.pcie + PCI_EXP_DEVCTL, 2) & PCI_EXP_DEVCTL_BCR_FLR) != 0) {
    reset_locked();
    return settle_mappings_locked();
  }
  if (map_.power_management != 0) apply_power_state_locked();
  apply_config_locked();
}

// What the hardware itself changes in its registers.
void Function::refresh_config_locked() {
  const std::uint32_t status = config_.get(offset_of(ConfigRegister::status), 2);
  config_.set(offset_of(ConfigRegister::status), 2,
              interrupts_.intx_level() ? status | kStatusInterrupt : status & ~kStatusInterrupt);
  if (map_.msi != 0 && description_.msi_maskable) {
    config_.set(map_.msi + PCI_MSI_PENDING_64, 4, interrupts_.msi_pending());
  }
}

void Function::apply_power_state_locked() {
  const std::uint64_t at = map_.power_management + PCI_PM_CTRL;
  const std::uint32_t control = config_.get(at, 2);
  const unsigned state = control & PCI_PM_CTRL_STATE_MASK;
  if (state == power_state_) return;
  if (state != kD0 && state != kD3hot) {  // not supported: the write has no effect
    return config_.set(at, 2, (control & ~PCI_PM_CTRL_STATE_MASK) | power_state_);
  }
  power_state_ = state;
  if (state == kD0) reset_locked();
}

void Function::apply_config_locked() {
  const std::uint32_t command = config_.get(offset_of(ConfigRegister::command), 2);
  const bool awake = power_state_ == kD0;
  io_enabled_.store(awake && (command & kCommandIo) != 0, std::memory_order_release);
  memory_enabled_.store(awake && (command & kCommandMemory) != 0, std::memory_order_release);
  const bool master = awake && (command & kCommandMaster) != 0;
  InterruptUnit::Control control{.bus_master = master,
                                 .intx_disabled = !awake || (command & kCommandIntxDisable) != 0};
  if (map_.msi != 0) {
    const std::uint32_t flags = config_.get(map_.msi + PCI_MSI_FLAGS, 2);
    control.msi_enabled = (flags & PCI_MSI_FLAGS_ENABLE) != 0;
    control.msi_vectors =
        std::min(1u << ((flags & PCI_MSI_FLAGS_QSIZE) >> 4), description_.msi_vectors);
    if (description_.msi_maskable) control.msi_mask = config_.get(map_.msi + PCI_MSI_MASK_64, 4);
  }
  if (map_.msix != 0) {
    const std::uint32_t flags = config_.get(map_.msix + PCI_MSIX_FLAGS, 2);
    control.msix_enabled = (flags & PCI_MSIX_FLAGS_ENABLE) != 0;
    control.msix_function_mask = (flags & PCI_MSIX_FLAGS_MASKALL) != 0;
  }
  const InterruptMode mode = interrupts_.mode();
  interrupts_.control(control);
  if (interrupts_.mode() != mode) model_->interrupt_mode_changed();
  if (bus_master_.exchange(master, std::memory_order_acq_rel) != master) {
    model_->bus_master_changed(master);
  }
  settle_mappings_locked();
}

// Not while a reset has decoding off for a moment: a client's access then comes before or after.
void Function::settle_mappings_locked() {
  const bool visible = memory_enabled_ && !mappings_denied_;
  if (!memory_.mappable() || visible == memory_.visible()) return;
  const std::unique_lock lock(access_);
  model_->hold_still([&] { memory_.set_visible(visible); });
}

void Function::deny_mappings(bool denied) {
  const std::scoped_lock lock(config_mutex_);
  mappings_denied_ = denied;
  settle_mappings_locked();
}

// --- BARs.

std::uint64_t Function::bar_size(unsigned bar) const {
  if (bar >= description_.bars.size() || description_.bars[bar].kind == Bar::Kind::none) return 0;
  return description_.bars[bar].size;
}

Result<Function::Space> Function::space_of(unsigned bar, std::uint64_t offset,
                                           std::size_t size) const {
  if (bar == kVgaRanges) {
    if (!description_.vga) return fail(EINVAL);
    return offset >= 0xa0000 ? Space::memory : Space::io;
  }
  const std::uint64_t all = bar_size(bar);
  if (offset > all || size > all - offset) return fail(EINVAL);
  return description_.bars[bar].kind == Bar::Kind::io ? Space::io : Space::memory;
}

Status Function::bar_read(unsigned bar, std::uint64_t offset, std::span<std::byte> data) {
  const auto space = space_of(bar, offset, data.size());
  if (!space) return std::unexpected(space.error());
  const std::shared_lock lock(access_);
  if (bar != kVgaRanges && *space == Space::memory && !memory_enabled_) return fail(EIO);
  if (!decodes(*space)) {
    std::ranges::fill(data, std::byte{0xff});
    return {};
  }
  while (!data.empty()) {
    const std::size_t width = access_width(offset, data.size(), 8);
    store(data.first(width), read_piece(bar, offset, static_cast<unsigned>(width)));
    offset += width;
    data = data.subspan(width);
  }
  return {};
}

Status Function::bar_write(unsigned bar, std::uint64_t offset, std::span<const std::byte> data) {
  const auto space = space_of(bar, offset, data.size());
  if (!space) return std::unexpected(space.error());
  const std::shared_lock lock(access_);
  if (bar != kVgaRanges && *space == Space::memory && !memory_enabled_) return fail(EIO);
  if (!decodes(*space)) return {};
  while (!data.empty()) {
    const std::size_t width = access_width(offset, data.size(), 8);
    write_piece(bar, offset, static_cast<unsigned>(width), load(data.first(width)));
    offset += width;
    data = data.subspan(width);
  }
  return {};
}

std::byte* Function::plain_memory(unsigned bar, std::uint64_t offset) const {
  if (bar == kVgaRanges || description_.bars[bar].trap_unmapped) return nullptr;
  for (const Bar::Range& range : description_.bars[bar].mappable) {
    if (offset >= range.offset && offset - range.offset < range.size) {
      return memory_.bar(bar).data() + offset;
    }
  }
  return nullptr;
}

// A naturally aligned piece never leaves a mappable part or a structure of MSI-X: all are 8-byte
// aligned.
std::uint64_t Function::read_piece(unsigned bar, std::uint64_t offset, unsigned width) {
  if (std::byte* const at = plain_memory(bar, offset)) return load_shared(at, width);
  if (description_.msix) {
    const MsiX& msix = *description_.msix;
    if (bar == msix.table_bar && offset - msix.table_offset < interrupts_.table_size()) {
      return interrupts_.read_table(offset - msix.table_offset, width);
    }
    if (bar == msix.pba_bar && offset - msix.pba_offset < interrupts_.pending_size()) {
      return interrupts_.read_pending(offset - msix.pba_offset, width);
    }
  }
  return model_->read_bar(bar, offset, width);
}

void Function::write_piece(unsigned bar, std::uint64_t offset, unsigned width,
                           std::uint64_t value) {
  if (std::byte* const at = plain_memory(bar, offset)) return store_shared(at, width, value);
  if (description_.msix) {
    const MsiX& msix = *description_.msix;
    if (bar == msix.table_bar && offset - msix.table_offset < interrupts_.table_size()) {
      return interrupts_.write_table(offset - msix.table_offset, width, value);
    }
    if (bar == msix.pba_bar && offset - msix.pba_offset < interrupts_.pending_size()) return;
  }
  model_->write_bar(bar, offset, width, value);
}

// --- Interrupts.

unsigned Function::vectors(InterruptMode mode) const {
  switch (mode) {
    case InterruptMode::intx:
      return description_.intx ? 1 : 0;
    case InterruptMode::msi:
      return description_.msi_vectors;
    case InterruptMode::msix:
      return description_.msix ? description_.msix->vectors : 0;
    case InterruptMode::none:
      break;
  }
  return 0;
}

Status Function::enable_messages(InterruptMode mode, unsigned count) {
  if ((mode != InterruptMode::msi && mode != InterruptMode::msix) || count == 0 ||
      count > vectors(mode)) {
    return fail(EINVAL);
  }
  constexpr auto kCommand = offset_of(ConfigRegister::command);
  const std::scoped_lock lock(config_mutex_);
  config_set_locked(kCommand, 2, config_.get(kCommand, 2) | kCommandIntxDisable);
  if (mode == InterruptMode::msi) {
    const auto at = static_cast<std::uint16_t>(map_.msi + PCI_MSI_FLAGS);
    const auto exponent = static_cast<unsigned>(std::countr_zero(std::bit_ceil(count)));
    config_set_locked(at, 2, PCI_MSI_FLAGS_ENABLE | exponent << 4);
  } else {
    for (unsigned i = 0; i < count; ++i) interrupts_.set_vector_masked(i, false);
    config_set_locked(static_cast<std::uint16_t>(map_.msix + PCI_MSIX_FLAGS), 2,
                      PCI_MSIX_FLAGS_ENABLE);
  }
  return {};
}

void Function::disable_messages() {
  constexpr auto kCommand = offset_of(ConfigRegister::command);
  const std::scoped_lock lock(config_mutex_);
  if (map_.msi != 0) {
    config_set_locked(static_cast<std::uint16_t>(map_.msi + PCI_MSI_FLAGS), 2, 0);
  }
  if (map_.msix != 0) {
    config_set_locked(static_cast<std::uint16_t>(map_.msix + PCI_MSIX_FLAGS), 2, 0);
    for (unsigned i = 0; i < description_.msix->vectors; ++i) {
      interrupts_.set_vector_masked(i, true);
    }
  }
  config_set_locked(kCommand, 2, config_.get(kCommand, 2) & ~kCommandIntxDisable);
}

void Function::set_vector_masked(unsigned vector, bool masked) {
  interrupts_.set_vector_masked(vector, masked);
}

// --- Power and resets.

unsigned Function::power_state() {
  const std::scoped_lock lock(config_mutex_);
  return power_state_;
}

void Function::set_power_state(unsigned state) {
  if (map_.power_management == 0 || state > kD3hot) return;
  config_set(static_cast<std::uint16_t>(map_.power_management + PCI_PM_CTRL), 2, state);
}

Status Function::reset_function() {
  if (!has_flr() && !has_pm_reset()) return fail(ENOTTY);
  const std::scoped_lock lock(config_mutex_);
  reset_and_restore_locked();
  return {};
}

void Function::hot_reset() {
  const std::scoped_lock lock(config_mutex_);
  reset_and_restore_locked();
}

void Function::reset() {
  const std::scoped_lock lock(config_mutex_);
  reset_locked();
  settle_mappings_locked();
}

void Function::reset_locked() {
  const std::unique_lock lock(access_);
  bus_master_ = false;
  memory_enabled_ = false;
  io_enabled_ = false;
  // First: what the model still raises on its way down goes nowhere.
  interrupts_.control({});
  model_->reset();
  config_ = power_on_;
  power_state_ = kD0;
  interrupts_.reset();
}

void Function::reset_and_restore_locked() {
  ConfigSpace saved = config_;
  if (map_.power_management != 0) saved.set(map_.power_management + PCI_PM_CTRL, 2, kD0);
  const auto table = interrupts_.table();
  reset_locked();
  config_ = std::move(saved);
  interrupts_.set_table(table);
  apply_config_locked();
}

// --- The user.

Result<vfio::Dma> Function::dma() {
  const std::scoped_lock lock(device_mutex_);
  if (device_ == nullptr) return fail(ENXIO);
  return device_->dma(&bus_master_);
}

Status Function::attach(vfio::Device& device) {
  const std::scoped_lock lock(device_mutex_);
  if (device_ != nullptr) return fail(EBUSY);
  device_ = &device;
  return {};
}

void Function::detach() {
  const std::scoped_lock lock(config_mutex_);
  {
    const std::scoped_lock device_lock(device_mutex_);
    device_ = nullptr;
  }
  constexpr auto kCommand = offset_of(ConfigRegister::command);
  config_set_locked(kCommand, 2, config_.get(kCommand, 2) & ~kCommandMaster);
  {
    const std::unique_lock accesses(access_);
    model_->reset();
    interrupts_.set_intx(false);
    memory_.part_with_clients();
  }
  settle_mappings_locked();
}

}  // namespace uvfio::pci
