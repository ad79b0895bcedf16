// A translation domain (struct iommu_domain): one page table that the devices of several groups
// share.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "iommu/unit/page_table.h"
#include "uvfio/iommu_unit.h"

namespace uvfio::iommu {

// Made for one unit; groups behind others may join where they are compatible. One writer at a time;
// walk() inside an RCU section.
class Domain {
 public:
  // iommu_paging_domain_alloc.
  explicit Domain(const Unit& unit);

  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] const std::string& implementation() const { return implementation_; }
  [[nodiscard]] std::uint64_t page_sizes() const { return page_sizes_; }
  [[nodiscard]] std::uint64_t aperture_first() const { return aperture_first_; }
  [[nodiscard]] std::uint64_t aperture_last() const { return aperture_last_; }
  // enforce_cache_coherency: every device's accesses snoop the caches.
  [[nodiscard]] bool coherent() const { return coherent_; }
  // What is the matter with a group behind `unit` joining. EINVAL: another implementation, an
  // aperture or leaves that the unit does not have, no snoop control where the domain needs it.
  [[nodiscard]] Status check_compatible(const Unit& unit) const;

  // As PageTable's; ERANGE also below the aperture, EINVAL where it is not in whole pages.
  [[nodiscard]] Status map(std::uint64_t iova, Target target, std::uint64_t size, vfio::Prot prot,
                           std::uint64_t largest_page);
  std::uint64_t unmap(std::uint64_t iova, std::uint64_t last) { return table_.unmap(iova, last); }
  // After a grace period since the last unmap.
  void reclaim() { table_.reclaim(); }

  [[nodiscard]] PageTable::Leaf walk(std::uint64_t iova) const { return table_.walk(iova); }
  // Where `iova` leads; EINVAL: nowhere. Inside an RCU section.
  [[nodiscard]] Result<Target> iova_to_phys(std::uint64_t iova) const;

  [[nodiscard]] const PageTable& table() const { return table_; }

 private:
  static inline std::atomic<std::uint64_t> next_id_{0};

  const std::uint64_t id_ = next_id_.fetch_add(1, std::memory_order_relaxed);
  const std::string implementation_;
  const std::uint64_t page_sizes_;
  const std::uint64_t aperture_first_;
  const std::uint64_t aperture_last_;
  const bool coherent_;
  PageTable table_;
};

}  // namespace uvfio::iommu
