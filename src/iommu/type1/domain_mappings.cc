#include <limits>

#include "base/rcu.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

constexpr std::uint64_t kAnySize = std::numeric_limits<std::uint64_t>::max();

// How many pages from the start of the mapping are accessible, given that not all are.
std::uint64_t accessible_pages(const Mapping& mapping) {
  const bool write = vfio::allows(mapping.prot, Prot::write);
  std::uint64_t good = 0;
  std::uint64_t bad = mapping.pages();
  while (bad - good > 1) {
    const std::uint64_t middle = good + (bad - good) / 2;
    if (mapping.space->check(mapping.vaddr, middle * kPageSize, write)) {
      good = middle;
    } else {
      bad = middle;
    }
  }
  return good;
}

}  // namespace

// Finds the memory of the whole mapping and charges it, but for what is charged already because
// devices have pinned it (vfio_pin_pages_remote). EFAULT, ENOMEM.
Status Type1::pin_all(Mapping& mapping) {
  {
    const std::scoped_lock lock(resolve_lock_);
    if (!mapping.resolve()) return fail(EFAULT);  // the process has gone
  }
  Status accessible;
  if (mapping.reach() == Mapping::Reach::copy) {
    accessible = mapping.space->check(mapping.vaddr, mapping.size(),
                                      vfio::allows(mapping.prot, Prot::write));
  }
  const std::vector<PageRun> pinned = account_.pinned(mapping);
  if (!accessible) {
    // The kernel goes page by page and may meet the limit before the hole.
    const PageRun before{.first = 0, .count = accessible_pages(mapping)};
    if (before.count != 0) {
      const std::span<const PageRun> runs(&before, 1);
      auto charged = account_.charge(mapping, *mapping.space, mapping.lock_cap, runs);
      if (!charged) return charged;
      account_.uncharge(mapping, runs);
    }
    return fail(EFAULT);
  }
  account_.uncharge(mapping, pinned);
  const PageRun whole = Account::whole(mapping);
  auto charged = account_.charge(mapping, *mapping.space, mapping.lock_cap, std::span(&whole, 1));
  if (!charged) {
    // Under one lock with the line above: there is room for what has just been given up.
    static_cast<void>(account_.charge(mapping, *mapping.space, true, pinned));
    return charged;
  }
  mapping.iommu_mapped = true;
  return {};
}

Status Type1::map_in_domain(Domain& domain, const Mapping& mapping) const {
  const bool direct = mapping.reach() == Mapping::Reach::direct;
  const Target target{
      .address = direct ? reinterpret_cast<std::uint64_t>(mapping.host()) : mapping.vaddr,
      .copy = !direct};
  const std::uint64_t largest = parameters_->disable_hugepages ? kPageSize : kAnySize;
  return domain.map(mapping.first, target, mapping.size(), mapping.prot, largest);
}

// Pins a new mapping and puts it into every domain, or undoes it all.
Status Type1::map_in_domains(Mapping& mapping) {
  if (auto pinned = pin_all(mapping); !pinned) return pinned;
  for (std::size_t i = 0; i < domains_.size(); ++i) {
    auto mapped = map_in_domain(*domains_[i].domain, mapping);
    if (mapped) continue;
    for (std::size_t done = 0; done < i; ++done) {
      domains_[done].domain->unmap(mapping.first, mapping.last);
    }
    // A device may have used what the domain that refused had mapped already.
    wait_for_devices();
    account_.uncharge(mapping, account_.charged(mapping));
    mapping.iommu_mapped = false;
    return mapped;
  }
  return {};
}

// Devices may use it until wait_for_devices, or a Removal's grace period.
void Type1::unmap_from_domains(const Mapping& mapping) {
  if (!mapping.iommu_mapped) return;
  for (const DomainGroups& entry : domains_) entry.domain->unmap(mapping.first, mapping.last);
}

// Flushes every IOTLB: no device uses what has been unmapped on return.
void Type1::wait_for_devices() {
  generation_.fetch_add(1, std::memory_order_release);
  rcu::synchronize();
  for (const DomainGroups& entry : domains_) entry.domain->reclaim();
}

}  // namespace uvfio::iommu::type1
