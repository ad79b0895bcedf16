#include "pci/description_check.h"

#include <fmt/format.h>

#include <bit>

#include "pci/layout.h"
#include "uvfio/memory.h"

namespace uvfio::pci {
namespace {

using Mistake = std::optional<std::string>;

constexpr std::uint64_t kLargestIo = 256;               // PCI 3.0, 6.2.5.1
constexpr std::uint64_t kLargestMemory32 = 1ull << 31;  // what is left can still be placed
constexpr std::uint64_t kLargestRom = 16 << 20;         // PCI 3.0, 6.2.5.2
constexpr std::size_t kLargestExtra = 190;              // what fits behind the header

bool is_memory(const Bar& bar) {
  return bar.kind == Bar::Kind::memory32 || bar.kind == Bar::Kind::memory64;
}

Mistake check_size(const Bar& bar) {
  const bool io = bar.kind == Bar::Kind::io;
  const std::uint64_t smallest = io ? 4 : 16;
  const std::uint64_t largest = io                                ? kLargestIo
                                : bar.kind == Bar::Kind::memory32 ? kLargestMemory32
                                                                  : region_offset(1);
  if (!std::has_single_bit(bar.size) || bar.size < smallest || bar.size > largest) {
    return fmt::format("its size {:#x} is no power of two from {:#x} to {:#x}", bar.size, smallest,
                       largest);
  }
  return std::nullopt;
}

Mistake check_mappable(const Bar& bar) {
  std::uint64_t end = 0;
  for (const Bar::Range& range : bar.mappable) {
    if (!is_memory(bar)) return "I/O ports cannot be mapped";
    if (range.offset % memory::kPageSize != 0 || range.size % memory::kPageSize != 0 ||
        range.size == 0) {
      return "its mappable parts are not whole pages";
    }
    if (range.offset < end || range.offset > bar.size || range.size > bar.size - range.offset) {
      return "its mappable parts are not ascending, disjoint and inside";
    }
    end = range.offset + range.size;
  }
  return std::nullopt;
}

Mistake check_bars(const Description& description) {
  const auto& bars = description.bars;
  for (std::size_t i = 0; i < bars.size(); ++i) {
    if (bars[i].kind == Bar::Kind::none) continue;
    if (auto mistake = check_size(bars[i])) return fmt::format("BAR {}: {}", i, *mistake);
    if (auto mistake = check_mappable(bars[i])) return fmt::format("BAR {}: {}", i, *mistake);
    if (bars[i].kind != Bar::Kind::memory64) continue;
    if (i + 1 == bars.size() || bars[i + 1].kind != Bar::Kind::none) {
      return fmt::format("BAR {} of 64 bits has no room for its upper half", i);
    }
  }
  return std::nullopt;
}

// One of the two structures of MSI-X.
struct Structure {
  std::uint8_t bar = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

Mistake check_msix(const Description& description) {
  if (!description.msix) return std::nullopt;
  const MsiX& msix = *description.msix;
  if (msix.vectors < 1 || msix.vectors > 2048) return "MSI-X has 1 to 2048 vectors";
  const Structure table{
      .bar = msix.table_bar, .offset = msix.table_offset, .size = std::uint64_t{msix.vectors} * 16};
  const Structure pending{.bar = msix.pba_bar,
                          .offset = msix.pba_offset,
                          .size = (std::uint64_t{msix.vectors} + 63) / 64 * 8};
  for (const Structure& each : {table, pending}) {
    if (each.bar >= description.bars.size() || !is_memory(description.bars[each.bar])) {
      return "MSI-X table and pending bits need a memory BAR";
    }
    const Bar& bar = description.bars[each.bar];
    if (each.offset % 8 != 0 || each.offset > bar.size || each.size > bar.size - each.offset) {
      return "MSI-X table and pending bits must lie in their BAR, 8-byte aligned";
    }
    for (const Bar::Range& range : bar.mappable) {
      if (overlap(each.offset, each.size, range.offset, range.size)) {
        return "MSI-X table or pending bits in a mappable part";
      }
    }
  }
  if (table.bar == pending.bar && overlap(table.offset, table.size, pending.offset, pending.size)) {
    return "MSI-X table and pending bits overlap";
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> find_mistake(const Description& description) {
  if (auto mistake = check_bars(description)) return mistake;
  if (auto mistake = check_msix(description)) return mistake;
  const unsigned messages = description.msi_vectors;
  if (messages != 0 && (!std::has_single_bit(messages) || messages > 32)) {
    return "MSI has 1, 2, 4, 8, 16 or 32 vectors";
  }
  if (description.class_code >> 24 != 0) return "a class code has 24 bits";
  if (description.rom.size() > kLargestRom) return "an expansion ROM has at most 16 MiB";
  for (const ExtraCapability& each : description.capabilities) {
    if (each.body.empty() || each.body.size() > kLargestExtra ||
        (!each.writable.empty() && each.writable.size() != each.body.size())) {
      return fmt::format("capability {:#x}: its body and its writable bits do not agree", each.id);
    }
  }
  return std::nullopt;
}

}  // namespace uvfio::pci
