// Which groups are in a container, and the domains that they are in.

#include <algorithm>
#include <limits>

#include "base/log.h"
#include "base/rcu.h"
#include "iommu/type1/for_each_mapping.h"
#include "iommu/type1/removal.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// A region that a VFIO user gets for the asking does not stand in anybody's way.
bool is_relaxable(const ReservedRegion& region) {
  return region.kind == ReservedRegion::Kind::direct_relaxable;
}

void exclude_reserved(const IommuGroup& group, IovaRanges& ranges) {
  for (const ReservedRegion& region : group.reserved()) {
    if (!is_relaxable(region)) ranges.exclude(region.first, region.last);
  }
}

}  // namespace

Status Type1::attach_group(IommuGroup& group) {
  const std::scoped_lock lock(lock_);
  if (vaddr_invalid_ != 0) return fail(EBUSY);
  const bool known = std::ranges::find(emulated_groups_, &group) != emulated_groups_.end() ||
                     std::ranges::any_of(domains_, [&](const DomainGroups& entry) {
                       return std::ranges::find(entry.groups, &group) != entry.groups.end();
                     });
  if (known) return fail(EINVAL);
  if (group.type() != GroupType::emulated) return attach_real_group(group);
  emulated_groups_.push_back(&group);
  return {};
}

// Do the domain's aperture and the group's reserved regions go with the mappings that there are?
// vfio_iommu_aper_conflict, vfio_iommu_resv_conflict and the resizing of a copy of the ranges.
Status Type1::check_attach(const IommuGroup& group, const Domain& domain,
                           IovaRanges& ranges) const {
  const std::uint64_t first = domain.aperture_first();
  const std::uint64_t last = domain.aperture_last();
  if (!ranges_.unlimited()) {
    const auto now = ranges_.limits();
    if (first > now.last || last < now.first) return fail(EINVAL);
    if (first > now.first && find_overlap(now.first, first - 1) != nullptr) return fail(EINVAL);
    if (last < now.last && find_overlap(last + 1, now.last) != nullptr) return fail(EINVAL);
  }
  for (const ReservedRegion& region : group.reserved()) {
    if (!is_relaxable(region) && find_overlap(region.first, region.last) != nullptr)
      return fail(EINVAL);
  }
  ranges = ranges_;
  ranges.restrict_to(first, last);
  exclude_reserved(group, ranges);
  return ranges.list().empty() ? fail(EINVAL) : Status();
}

Status Type1::attach_real_group(IommuGroup& group) {
  const auto& unit = group.unit();
  if (!unit) return fail(ENODEV);
  auto domain = std::make_shared<Domain>(*unit);
  IovaRanges ranges;
  if (auto fits = check_attach(group, *domain, ranges); !fits) return fits;
  // The kernel would go on with no page size at all.
  if ((page_sizes_ & domain->page_sizes()) == 0) return fail(EINVAL);
  if (!unit->properties().isolated_msi && !parameters_->allow_unsafe_interrupts) {
    spdlog::warn(
        "group {}: its IOMMU unit {} does not isolate interrupts; with allow_unsafe_interrupts=1 "
        "the group can be used all the same",
        group.id(), unit->properties().name);
    return fail(EPERM);
  }

  const auto joined = std::ranges::find_if(domains_, [&](const DomainGroups& entry) {
    return entry.domain->check_compatible(*unit).has_value();
  });
  if (joined != domains_.end()) {
    joined->groups.push_back(&group);
    ranges_ = std::move(ranges);
    return {};
  }
  if (auto replayed = replay(*domain); !replayed) return replayed;
  domains_.push_back({.domain = std::move(domain), .groups = {&group}});
  ranges_ = std::move(ranges);
  update_page_sizes();
  return {};
}

// Puts every mapping into a new domain; those that no domain has so far are pinned now. All or
// nothing.
Status Type1::replay(Domain& domain) {
  std::vector<Mapping*> pinned;
  Status result;
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    if (!mapping.iommu_mapped) {
      result = pin_all(mapping);
      if (!result) return false;
      pinned.push_back(&mapping);
    }
    result = map_in_domain(domain, mapping);
    return result.has_value();
  });
  if (result) return result;
  // No device has seen the domain.
  for (Mapping* mapping : pinned) {
    account_.uncharge(*mapping, account_.charged(*mapping));
    mapping->iommu_mapped = false;
    static_cast<void>(account_.charge(*mapping, *mapping->space, true, account_.pinned(*mapping)));
  }
  return result;
}

void Type1::detach_group(IommuGroup& group) {
  const std::scoped_lock lock(lock_);
  if (group.type() != GroupType::emulated) {
    detach_real_group(group);
    return;
  }
  std::erase(emulated_groups_, &group);
  if (emulated_groups_.empty() && domains_.empty()) unmap_all_locked();
}

void Type1::detach_real_group(IommuGroup& group) {
  const auto entry = std::ranges::find_if(domains_, [&](const DomainGroups& candidate) {
    return std::ranges::find(candidate.groups, &group) != candidate.groups.end();
  });
  if (entry == domains_.end()) return;
  std::erase(entry->groups, &group);

  auto limits = ranges_.limits();
  if (entry->groups.empty()) {
    if (domains_.size() == 1) {
      if (emulated_groups_.empty()) {
        unmap_all_locked();
      } else {
        drop_iommu_mappings();
      }
    }
    // Its devices have been closed, so nobody walks its table but late readers.
    const std::shared_ptr<Domain> gone = std::move(entry->domain);
    domains_.erase(entry);
    rcu::synchronize();
    update_page_sizes();
    // With the last domain gone the range is everything, which is not the same as no range at all.
    limits = {};
    for (const DomainGroups& left : domains_) {
      limits.first = std::max(limits.first, left.domain->aperture_first());
      limits.last = std::min(limits.last, left.domain->aperture_last());
    }
  }
  IovaRanges ranges;
  ranges.reset(limits);
  for (const DomainGroups& left : domains_) {
    for (const IommuGroup* member : left.groups) exclude_reserved(*member, ranges);
  }
  if (!ranges.list().empty()) ranges_ = std::move(ranges);
  mark_all_dirty();
}

// The last domain goes while emulated groups stay: only what their devices have pinned stays
// charged (vfio_iommu_unmap_unpin_reaccount).
void Type1::drop_iommu_mappings() {
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    unmap_from_domains(mapping);
    account_.uncharge(mapping, account_.charged(mapping));
    mapping.iommu_mapped = false;
    static_cast<void>(account_.charge(mapping, *mapping.space, true, account_.pinned(mapping)));
    return true;
  });
  wait_for_devices();
}

// vfio_update_pgsize_bitmap. With no domain every size from 4 KiB on will do.
void Type1::update_page_sizes() {
  const std::uint64_t before = page_sizes_;
  page_sizes_ = kMax;
  for (const DomainGroups& entry : domains_) page_sizes_ &= entry.domain->page_sizes();
  if ((page_sizes_ & (kPageSize - 1)) != 0) {
    page_sizes_ = (page_sizes_ & ~(kPageSize - 1)) | kPageSize;
  }
  if (!dirty_tracking_ || page_size() == (before & (~before + 1))) return;
  // Bits stand for other pages now. What was written so far is told as "all".
  std::vector<std::unique_ptr<DirtyBitmap>> replaced;
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    DirtyBitmap* const old = mapping.dirty.load(std::memory_order_relaxed);
    if (!attach_dirty_bitmap(mapping)) return true;  // no memory: the old one stays
    replaced.emplace_back(old);
    mapping.dirty.load(std::memory_order_relaxed)->set_all();
    return true;
  });
  rcu::synchronize();
}

}  // namespace uvfio::iommu::type1
