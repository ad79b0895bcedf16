#include "devices/nvme/registers.h"

namespace uvfio::nvme {
namespace {

constexpr std::uint64_t kCapabilities = cap::Mqes::put(kMaxQueueEntries - 1) | cap::Cqr::put(1) |
                                        cap::To::put(60) | cap::Nssrs::put(1) | cap::Css::put(1) |
                                        cap::MpsMax::put(kMaxPageShift - kMinPageShift);

struct Place {
  RegisterId id = RegisterId::count;
  unsigned half = 0;  // which double word of it
};

Place find(std::uint64_t offset) {
  std::uint64_t begin = 0;
  for (std::size_t i = 0; i < kRegisters.size(); begin += kRegisters[i++].size) {
    if (offset < begin + kRegisters[i].size)
      return {static_cast<RegisterId>(i), static_cast<unsigned>(offset - begin) / 4};
  }
  return {};
}

}  // namespace

RegisterFile::RegisterFile() { power_on(); }

std::uint32_t RegisterFile::read(std::uint64_t offset) const {
  return offset < kRegistersEnd ? words_[offset / 4].load(std::memory_order_acquire) : 0;
}

std::uint64_t RegisterFile::get(RegisterId id) const {
  const std::uint64_t offset = offset_of(id);
  const std::uint64_t low = read(offset);
  if (kRegisters[static_cast<std::size_t>(id)].size == 4) return low;
  return low | std::uint64_t{read(offset + 4)} << 32;
}

RegisterFile::Effect RegisterFile::write(std::uint64_t offset, std::uint32_t value) {
  const Place place = find(offset);
  switch (place.id) {
    case RegisterId::intms:
    case RegisterId::intmc: {
      // Both read as the mask.
      std::atomic<std::uint32_t>& mask = word(RegisterId::intms);
      const std::uint32_t now = place.id == RegisterId::intms ? mask.fetch_or(value) | value
                                                              : mask.fetch_and(~value) & ~value;
      word(RegisterId::intmc) = now;
      return Effect::interrupt_mask;
    }
    case RegisterId::csts:
      if (csts::Nssro::get(value) != 0) clear_status(csts::Nssro::kMask);
      return Effect::none;
    case RegisterId::nssr:
      return value == kSubsystemResetCode ? Effect::subsystem_reset : Effect::none;
    case RegisterId::count:
      return Effect::none;
    default: {
      const std::uint64_t writable = kRegisters[static_cast<std::size_t>(place.id)].writable;
      if (writable == 0) return Effect::none;
      word(place.id, place.half) =
          value & static_cast<std::uint32_t>(writable >> (32 * place.half));
      return place.id == RegisterId::cc ? Effect::configuration : Effect::none;
    }
  }
}

void RegisterFile::set_status(std::uint32_t bits) { word(RegisterId::csts).fetch_or(bits); }
void RegisterFile::clear_status(std::uint32_t bits) { word(RegisterId::csts).fetch_and(~bits); }

void RegisterFile::controller_reset() {
  word(RegisterId::intms) = 0;
  word(RegisterId::intmc) = 0;
  clear_status(csts::Cfs::kMask | csts::Shst::kMask | csts::Rdy::kMask);
}

void RegisterFile::power_on() {
  for (auto& each : words_) each = 0;
  word(RegisterId::cap, 0) = static_cast<std::uint32_t>(kCapabilities);
  word(RegisterId::cap, 1) = static_cast<std::uint32_t>(kCapabilities >> 32);
  word(RegisterId::vs) = kVersion;
}

}  // namespace uvfio::nvme
