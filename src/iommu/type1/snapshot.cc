#include <limits>

#include "iommu/type1/for_each_mapping.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

}  // namespace

Type1::Usage Type1::usage() {
  const std::scoped_lock lock(lock_);
  Usage usage{.mappings = mappings_.size(),
              .memory_bytes = mappings_.memory_bytes() + mappings_.size() * sizeof(Mapping)};
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    if (mapping.pins) {
      usage.pinned_pages += mapping.pins->pinned();
      usage.memory_bytes += mapping.pins->memory_bytes();
    }
    return true;
  });
  return usage;
}

Type1::Snapshot Type1::snapshot() {
  const std::scoped_lock lock(lock_);
  Snapshot snapshot;
  snapshot.info = {.page_sizes = page_sizes_, .dma_avail = dma_avail_, .ranges = ranges_.list()};
  snapshot.dirty_tracking = dirty_tracking_;
  for (const IommuGroup* group : emulated_groups_) snapshot.emulated_groups.push_back(group->id());
  for (const DomainGroups& entry : domains_) {
    const Domain& domain = *entry.domain;
    auto& view = snapshot.domains.emplace_back();
    view = {.id = domain.id(),
            .implementation = domain.implementation(),
            .coherent = domain.coherent(),
            .aperture_first = domain.aperture_first(),
            .aperture_last = domain.aperture_last(),
            .page_sizes = domain.page_sizes(),
            .leaves = domain.table().leaves(),
            .table_bytes = domain.table().memory_bytes(),
            .groups = {}};
    for (const IommuGroup* group : entry.groups) view.groups.push_back(group->id());
  }
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    snapshot.mappings.push_back({.iova = mapping.first,
                                 .size = mapping.size(),
                                 .vaddr = mapping.vaddr,
                                 .prot = mapping.prot,
                                 .reach = mapping.reach(),
                                 .iommu_mapped = mapping.iommu_mapped,
                                 .vaddr_invalid = mapping.vaddr_invalid,
                                 .pinned_pages = mapping.pins ? mapping.pins->pinned() : 0,
                                 .space = mapping.space});
    return true;
  });
  return snapshot;
}

}  // namespace uvfio::iommu::type1
