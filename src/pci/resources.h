// The host's physical addresses: where the BARs of its functions are.
#pragma once

#include <array>
#include <cstdint>
#include <map>

#include "uvfio/error.h"
#include "uvfio/pci.h"
#include "uvfio/pci_bus.h"

namespace uvfio::pci {

// The windows of one segment. Not thread-safe.
class AddressSpace {
 public:
  // Addresses for all BARs and the ROM of a function. ENOSPC: a window is full; nothing is taken.
  [[nodiscard]] Result<Resources> allocate(const Description& description, std::uint64_t rom_size);
  void free(const Resources& resources);

 private:
  enum Window : std::uint8_t { kIo, kMemory32, kMemory64, kWindows };
  [[nodiscard]] static Window window_of(Bar::Kind kind);
  Result<Resource> take(Window window, std::uint64_t size, std::uint64_t flags);

  std::array<std::map<std::uint64_t, std::uint64_t>, kWindows> taken_;  // first to last
};

// Writes the addresses to the function's BARs, as firmware does.
void assign(Function& function, const Resources& resources);

}  // namespace uvfio::pci
