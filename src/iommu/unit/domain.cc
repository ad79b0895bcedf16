#include "iommu/unit/domain.h"

namespace uvfio::iommu {

Domain::Domain(const Unit& unit)
    : implementation_(unit.properties().implementation),
      page_sizes_(unit.properties().page_sizes),
      aperture_first_(unit.properties().aperture_first),
      aperture_last_(unit.properties().aperture_last),
      coherent_(unit.properties().snoop_control),
      table_(page_sizes_, aperture_last_, unit.properties().table_limit) {}

Status Domain::check_compatible(const Unit& unit) const {
  const UnitProperties& has = unit.properties();
  if (has.implementation != implementation_) return fail(EINVAL);
  if (has.snoop_control != coherent_) return fail(EINVAL);
  if ((page_sizes_ & ~has.page_sizes) != 0) return fail(EINVAL);
  if (aperture_first_ < has.aperture_first || aperture_last_ > has.aperture_last) {
    return fail(EINVAL);
  }
  return {};
}

Status Domain::map(std::uint64_t iova, Target target, std::uint64_t size, vfio::Prot prot,
                   std::uint64_t largest_page) {
  const std::uint64_t smallest = page_sizes_ & (~page_sizes_ + 1);
  if (((iova | size) & (smallest - 1)) != 0) return fail(EINVAL);
  if (iova < aperture_first_) return fail(ERANGE);
  return table_.map(iova, target, size, prot, largest_page);
}

Result<Target> Domain::iova_to_phys(std::uint64_t iova) const {
  const PageTable::Leaf leaf = walk(iova);
  if (!leaf.present()) return fail(EINVAL);
  Target target = leaf.target;
  target.address += iova - leaf.first;
  return target;
}

}  // namespace uvfio::iommu
