// A walk over mappings, for the holder of Type1's lock.
#pragma once

#include <cstdint>
#include <limits>

#include "iommu/type1/mapping_tree.h"

namespace uvfio::iommu::type1 {

// Calls visit(mapping) for those that overlap [first, last], ascending, until it answers false.
template <typename Visit>
void for_each_mapping(const MappingTree& mappings, std::uint64_t first, std::uint64_t last,
                      Visit&& visit) {
  for (Mapping* mapping = mappings.writer_at_or_after(first);
       mapping != nullptr && mapping->first <= last;
       mapping = mappings.writer_at_or_after(mapping->last + 1)) {
    if (!visit(*mapping) || mapping->last == std::numeric_limits<std::uint64_t>::max()) return;
  }
}

}  // namespace uvfio::iommu::type1
