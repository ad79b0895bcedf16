// A software IOMMU unit: the hardware that type1 drives for the groups of real devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "uvfio/dma.h"

namespace uvfio::iommu {

class FaultQueue;

// IOVAs that devices behind a unit cannot use as they like (struct iommu_resv_region).
struct ReservedRegion {
  enum class Kind : std::uint8_t {
    direct,            // mapped 1:1 for the firmware
    direct_relaxable,  // the same, but may be given up to a VFIO user
    reserved,          // never reaches the unit
    msi,               // messages: writes are interrupts
    software_msi,      // where the unit's driver may map an interrupt doorbell
  };
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  Kind kind = Kind::reserved;
};

// As sysfs names it in reserved_regions: "direct", "direct-relaxable", "reserved", "msi".
[[nodiscard]] const char* name_of(ReservedRegion::Kind kind);

struct UnitProperties {
  std::string name = "iommu0";
  // Units whose implementations differ never share a domain (the kernel compares iommu_ops).
  std::string implementation = "uvfio";
  std::uint64_t page_sizes = 0x40201000;  // bitmap; sizes of leaves: 4 KiB, 2 MiB, 1 GiB
  std::uint64_t aperture_first = 0;       // IOVAs that it can translate
  std::uint64_t aperture_last = (std::uint64_t{1} << 48) - 1;
  std::vector<ReservedRegion> reserved = {
      {.first = 0xfee00000, .last = 0xfeefffff, .kind = ReservedRegion::Kind::msi}};
  bool snoop_control = true;      // can enforce cache coherency (IOMMU_CACHE)
  bool isolated_msi = true;       // remaps interrupts, so that a device cannot forge them
  std::uint64_t table_limit = 0;  // bytes of page tables that a domain may have; 0: no limit
};

// One unit. Its properties never change; thread-safe.
class Unit {
 public:
  explicit Unit(UnitProperties properties);
  ~Unit();
  Unit(const Unit&) = delete;

  [[nodiscard]] const UnitProperties& properties() const { return properties_; }
  // What devices behind it did wrong.
  [[nodiscard]] FaultQueue& faults() const { return *faults_; }

 private:
  const UnitProperties properties_;
  const std::unique_ptr<FaultQueue> faults_;
};

}  // namespace uvfio::iommu
