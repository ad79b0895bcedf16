// The IOMMU's view of a group of devices: its number, and who owns its DMA (struct iommu_group).
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "uvfio/error.h"
#include "uvfio/iommu_unit.h"

namespace uvfio::iommu {

enum class GroupType {
  real,      // devices behind an IOMMU
  emulated,  // one mediated device, no IOMMU behind it
};

// Thread-safe.
class IommuGroup {
 public:
  // `unit`: what its devices are behind; a real group has one. `reserved` come on top of the
  // unit's.
  IommuGroup(unsigned id, GroupType type, std::shared_ptr<Unit> unit = nullptr,
             std::vector<ReservedRegion> reserved = {});

  [[nodiscard]] unsigned id() const { return id_; }
  [[nodiscard]] GroupType type() const { return type_; }
  [[nodiscard]] const std::shared_ptr<Unit>& unit() const { return unit_; }
  // Of the unit and of the group, by address.
  [[nodiscard]] const std::vector<ReservedRegion>& reserved() const { return reserved_; }

  // A host driver that does DMA binds to, or leaves, a member. EBUSY: a VFIO user owns the group.
  [[nodiscard]] Status bind_host_driver();
  void unbind_host_driver();

  // iommu_group_claim_dma_owner. EPERM: a host driver is bound (not viable), or owned already.
  [[nodiscard]] Status claim_dma_owner();
  void release_dma_owner();
  [[nodiscard]] bool dma_owner_claimable() const;

 private:
  const unsigned id_;
  const GroupType type_;
  const std::shared_ptr<Unit> unit_;
  const std::vector<ReservedRegion> reserved_;
  mutable std::mutex mutex_;
  unsigned host_drivers_ = 0;
  bool owned_ = false;
};

}  // namespace uvfio::iommu
