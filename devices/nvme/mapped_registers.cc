#include "devices/nvme/mapped_registers.h"

#include <algorithm>

namespace uvfio::nvme {
namespace {

std::uint32_t shown(const RegisterFile& registers, std::uint64_t offset) {
  const bool mask =
      offset == offset_of(RegisterId::intms) || offset == offset_of(RegisterId::intmc);
  return mask ? 0 : registers.read(offset);
}

}  // namespace

void MappedRegisters::connect(std::span<std::byte> memory, unsigned doorbells) {
  memory_ = memory;
  count_ = std::min(doorbells, Doorbells::kCount);
}

void MappedRegisters::reset(const RegisterFile& registers) {
  if (!mapped()) return;
  clear_doorbells();
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < registers_.size(); ++i) {
    registers_[i] = shown(registers, i * 4);
    word(i * 4).store(registers_[i], std::memory_order_release);
  }
}

void MappedRegisters::clear_doorbell(unsigned index) {
  if (!mapped() || index >= count_) return;
  const std::lock_guard lock(mutex_);
  doorbells_[index] = 0;
  word(kDoorbells + index * 4).store(0, std::memory_order_release);
}

void MappedRegisters::clear_doorbells() {
  for (unsigned i = 0; i < count_; ++i) clear_doorbell(i);
}

void MappedRegisters::show(const RegisterFile& registers) {
  if (!mapped()) return;
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < registers_.size(); ++i) {
    const std::uint32_t now = shown(registers, i * 4);
    std::uint32_t expected = registers_[i];
    if (now != expected && word(i * 4).compare_exchange_strong(expected, now)) registers_[i] = now;
  }
}

}  // namespace uvfio::nvme
