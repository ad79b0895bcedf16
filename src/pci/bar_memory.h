// The memory behind the mappable parts of BARs: one sparse file, laid out as VFIO's device file.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "uvfio/error.h"
#include "uvfio/fd.h"
#include "uvfio/pci.h"

namespace uvfio::pci {

class BarMemory {
 public:
  // Errors of memfd_create, ftruncate and mmap. Without mappable parts there is no file.
  [[nodiscard]] static Result<BarMemory> create(const Description& description);
  BarMemory(BarMemory&& other) noexcept;
  ~BarMemory();

  [[nodiscard]] const Fd* file() const { return file_ ? &file_ : nullptr; }
  // The whole BAR, of which only the mappable parts are shown; empty: nothing of it is mappable.
  [[nodiscard]] std::span<std::byte> bar(unsigned bar) const { return bars_[bar]; }

 private:
  BarMemory() = default;
  Fd file_;
  std::array<std::span<std::byte>, 6> bars_;
};

}  // namespace uvfio::pci
