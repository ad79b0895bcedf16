// The memory behind the mappable parts of BARs: one sparse file, laid out as VFIO's device file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/sigbus_guard.h"
#include "uvfio/error.h"
#include "uvfio/fd.h"
#include "uvfio/pci.h"

namespace uvfio::pci {

// Clients that have mapped the file can be denied it: it becomes empty, so that their next access
// raises SIGBUS (what they get from vfio_pci_mmap_huge_fault), and what it held is in another file
// until it is shown again. This process always sees the memory, at the same place.
class BarMemory {
 public:
  // Not shown. Errors of memfd_create, ftruncate and mmap. Without mappable parts there is no file.
  [[nodiscard]] static Result<BarMemory> create(const Description& description);
  BarMemory(BarMemory&& other) noexcept;
  ~BarMemory();

  // The clients' file. They can map all of it; what they leave outside of the mappable parts goes
  // when it is hidden.
  [[nodiscard]] const Fd* file() const { return shown_ ? &shown_ : nullptr; }
  [[nodiscard]] bool mappable() const { return end_ != 0; }
  // The whole BAR, of which only the mappable parts are shown; empty: nothing of it is mappable.
  [[nodiscard]] std::span<std::byte> bar(unsigned bar) const { return bars_[bar].memory; }

  [[nodiscard]] bool visible() const { return visible_; }
  // What a client stores meanwhile is kept, or raises SIGBUS. Nothing in this process writes the
  // memory. Without descriptors or memory for that all stays as it is (and is logged).
  void set_visible(bool visible);
  // Hides it for good from those who have mapped it: the next clients' file is another one.
  void part_with_clients();

 private:
  struct Window {
    std::span<std::byte> memory;
    std::uint64_t offset = 0;  // in the file
    std::vector<Bar::Range> parts;
    // Between taking the pages away from the file and mapping the other one there is nothing behind
    // the addresses.
    std::optional<GuardedRange> guard;
  };

  BarMemory() = default;
  [[nodiscard]] Status move(const Fd& from, const Fd& to);

  Fd shown_;
  Fd kept_;
  std::uint64_t end_ = 0;  // size of whichever has the memory
  bool visible_ = false;
  std::array<Window, 6> bars_;
};

}  // namespace uvfio::pci
