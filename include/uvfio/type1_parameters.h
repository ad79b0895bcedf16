// What an administrator can set of the type1 IOMMU backend.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "uvfio/error.h"

namespace uvfio::iommu::type1 {

// How pages that are locked for devices count against their address space.
enum class Accounting : std::uint8_t {
  per_mapping,        // as the kernel: once for each mapping that has the page
  per_address_space,  // once for each page, however many mappings and containers have it
};

// The kernel's module parameters, under their names, and one of our own. They may change at any
// time.
struct Parameters {
  // Mappings in one container. Looked at when the IOMMU is set.
  std::atomic<std::uint32_t> dma_entry_limit = 65535;
  // Map in leaves of 4 KiB only. Looked at by each mapping.
  std::atomic<bool> disable_hugepages = false;
  // Let groups in whose devices can forge interrupts.
  std::atomic<bool> allow_unsafe_interrupts = false;
  // Looked at when the IOMMU is set.
  std::atomic<Accounting> accounting = Accounting::per_mapping;

  static constexpr std::array<std::string_view, 4> kNames{"accounting", "allow_unsafe_interrupts",
                                                          "disable_hugepages", "dma_entry_limit"};
  // As text, the way that the kernel's module parameters are read and written: Y or N, a number;
  // accounting is "mapping" or "address-space". ENOENT: no such name. EINVAL, ERANGE: no such
  // value.
  [[nodiscard]] Result<std::string> show(std::string_view name) const;
  [[nodiscard]] Status store(std::string_view name, std::string_view text);
};

}  // namespace uvfio::iommu::type1
