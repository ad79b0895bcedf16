#include "uvfio/iommu_unit.h"

#include "iommu/unit/fault_queue.h"

namespace uvfio::iommu {

const char* name_of(ReservedRegion::Kind kind) {
  switch (kind) {
    case ReservedRegion::Kind::direct:
      return "direct";
    case ReservedRegion::Kind::direct_relaxable:
      return "direct-relaxable";
    case ReservedRegion::Kind::reserved:
      return "reserved";
    case ReservedRegion::Kind::msi:
    case ReservedRegion::Kind::software_msi:
      return "msi";
  }
  return "unknown";
}

Unit::Unit(UnitProperties properties)
    : properties_(std::move(properties)), faults_(std::make_unique<FaultQueue>()) {}
Unit::~Unit() = default;

}  // namespace uvfio::iommu
