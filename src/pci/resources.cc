#include "pci/resources.h"

#include "pci/function.h"
#include "pci/layout.h"

namespace uvfio::pci {
namespace {

// <linux/ioport.h>, which is not for user space; sysfs shows these.
constexpr std::uint64_t kResourceIo = 0x100;
constexpr std::uint64_t kResourceMemory = 0x200;
constexpr std::uint64_t kResourcePrefetch = 0x2000;
constexpr std::uint64_t kResourceReadOnly = 0x4000;
constexpr std::uint64_t kResourceSizeAlign = 0x40000;
constexpr std::uint64_t kResourceMemory64 = 0x100000;

constexpr unsigned kRom = 6;

struct Range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
// I/O ports above those of the PC, memory below its interrupt controllers, memory above RAM.
constexpr std::array<Range, 3> kRanges{{
    {.first = 0x1000, .last = 0xffff},
    {.first = 0x8000'0000, .last = 0xfebf'ffff},
    {.first = 0x40'0000'0000, .last = 0x3fff'ffff'ffff},
}};

// Flags as sysfs shows them: the kind, and the low bits of the BAR.
std::uint64_t flags_of(const Bar& bar) {
  std::uint64_t flags = kResourceSizeAlign;
  if (bar.kind == Bar::Kind::io) return flags | kResourceIo | 1;
  flags |= kResourceMemory;
  if (bar.kind == Bar::Kind::memory64) flags |= kResourceMemory64 | 4;
  if (bar.prefetchable) flags |= kResourcePrefetch | 8;
  return flags;
}

}  // namespace

AddressSpace::Window AddressSpace::window_of(Bar::Kind kind) {
  switch (kind) {
    case Bar::Kind::io:
      return kIo;
    case Bar::Kind::memory64:
      return kMemory64;
    default:
      return kMemory32;
  }
}

// First fit.
Result<Resource> AddressSpace::take(Window window, std::uint64_t size, std::uint64_t flags) {
  auto& taken = taken_[window];
  std::uint64_t first = kRanges[window].first;
  const auto align = [size](std::uint64_t address) { return (address + size - 1) & ~(size - 1); };
  first = align(first);
  for (const auto& [used_first, used_last] : taken) {
    if (first + size - 1 < used_first) break;
    if (used_last >= first) first = align(used_last + 1);
  }
  if (first + size - 1 > kRanges[window].last) return fail(ENOSPC);
  taken.emplace(first, first + size - 1);
  return Resource{.first = first, .last = first + size - 1, .flags = flags};
}

Result<Resources> AddressSpace::allocate(const Description& description, std::uint64_t rom_size) {
  Resources resources;
  const auto add = [&](unsigned index, Window window, std::uint64_t size, std::uint64_t flags) {
    const auto resource = take(window, size, flags);
    if (resource) resources[index] = *resource;
    return resource.has_value();
  };
  bool complete = true;
  for (unsigned i = 0; i < description.bars.size() && complete; ++i) {
    const Bar& bar = description.bars[i];
    if (bar.kind == Bar::Kind::none) continue;
    complete = add(i, window_of(bar.kind), bar.size, flags_of(bar));
  }
  if (complete && rom_size != 0) {
    complete =
        add(kRom, kMemory32, rom_size, kResourceSizeAlign | kResourceMemory | kResourceReadOnly);
  }
  if (complete) return resources;
  free(resources);
  return fail(ENOSPC);
}

void AddressSpace::free(const Resources& resources) {
  for (const Resource& each : resources) {
    if (each.flags == 0) continue;
    Window window = (each.flags & kResourceIo) != 0 ? kIo : kMemory32;
    if ((each.flags & kResourceMemory64) != 0) window = kMemory64;
    taken_[window].erase(each.first);
  }
}

void assign(Function& function, const Resources& resources) {
  for (unsigned i = 0; i < resources.size(); ++i) {
    if (resources[i].flags == 0) continue;
    const auto at = i == kRom ? offset_of(ConfigRegister::rom)
                              : static_cast<std::uint16_t>(offset_of(ConfigRegister::bar0) + 4 * i);
    function.config_set(at, 4, static_cast<std::uint32_t>(resources[i].first));
    if ((resources[i].flags & kResourceMemory64) != 0) {
      function.config_set(static_cast<std::uint16_t>(at + 4), 4,
                          static_cast<std::uint32_t>(resources[i].first >> 32));
    }
  }
}

}  // namespace uvfio::pci
