#include <algorithm>
#include <limits>
#include <new>

#include "iommu/type1/type1.h"
#include "iommu/type1/wraps.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

}  // namespace

Status Type1::pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot,
                        vfio::PinnedPages& pins) {
  if (!v2_) return fail(EACCES);
  if (pages > kMax / kPageSize || wraps(iova, pages * kPageSize)) return fail(EOVERFLOW);
  const std::scoped_lock lock(lock_);
  if (vaddr_invalid_ != 0) return fail(EBUSY);
  if (devices_.empty()) return fail(EINVAL);
  for (std::uint64_t done = 0; done < pages;) {
    const std::uint64_t at = iova + done * kPageSize;
    Mapping* mapping = mappings_.writer_find(at);
    Status pinned;
    std::uint64_t run = 0;
    if (mapping == nullptr) {
      pinned = fail(EINVAL);
    } else if (!vfio::allows(mapping->prot, prot)) {
      pinned = fail(EPERM);
    } else {
      run = std::min(pages - done, (mapping->last - at) / kPageSize + 1);
      pinned = pin_run(*mapping, (at - mapping->first) / kPageSize, run, prot, pins);
    }
    if (!pinned) {
      if (done != 0) unpin_locked(iova, done);
      return pinned;
    }
    done += run;
  }
  return {};
}

Status Type1::pin_run(Mapping& mapping, std::uint64_t first, std::uint64_t pages, Prot prot,
                      vfio::PinnedPages& pins) {
  const std::uint64_t vaddr = mapping.vaddr + first * kPageSize;
  const auto gone = [](Errno error) {
    return error == Errno{ESRCH} ? fail(ENODEV) : std::unexpected(error);
  };
  if (mapping.reach() == Mapping::Reach::unknown) {
    const std::scoped_lock lock(resolve_lock_);
    if (auto resolved = mapping.resolve(); !resolved) return gone(resolved.error());
  }
  const bool direct = mapping.reach() == Mapping::Reach::direct;
  std::uint64_t fresh = 0;
  std::vector<PageRun> fresh_runs;  // to charge, if it matters which pages they are
  try {
    if (!mapping.pins) mapping.pins = std::make_unique<PinTable>();
    if (account_.by_page() && !mapping.iommu_mapped) {
      mapping.pins->for_each_run_with(0, first, pages, [&](std::uint64_t at, std::uint64_t count) {
        fresh_runs.push_back({.first = at, .count = count});
      });
    }
    fresh = mapping.pins->pin(first, pages);
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM);
  }
  if (fresh != 0) {
    Status allowed;
    if (!mapping.space->alive()) allowed = fail(ENODEV);
    if (allowed && !direct) {
      allowed = mapping.space->check(vaddr, pages * kPageSize, vfio::allows(prot, Prot::write));
      if (!allowed) allowed = gone(allowed.error());
    }
    if (allowed && !mapping.iommu_mapped) {
      const PageRun all{.first = first, .count = fresh};
      allowed = account_.charge(mapping, *mapping.space, mapping.lock_cap,
                                account_.by_page() ? std::span<const PageRun>(fresh_runs)
                                                   : std::span<const PageRun>(&all, 1));
    }
    if (!allowed) {
      mapping.pins->unpin(first, pages);
      return allowed;
    }
    if (DirtyBitmap* dirty = mapping.dirty.load(std::memory_order_relaxed))
      dirty->set(first, pages);
  }
  PinBuilder::append(pins,
                     {.host = direct ? mapping.host() + first * kPageSize : nullptr,
                      .vaddr = vaddr,
                      .size = pages * kPageSize},
                     mapping.view_owner(), mapping.space);
  return {};
}

void Type1::unpin_pages(std::uint64_t iova, std::uint64_t pages) {
  const std::scoped_lock lock(lock_);
  unpin_locked(iova, pages);
}

void Type1::unpin_locked(std::uint64_t iova, std::uint64_t pages) {
  while (pages != 0) {
    Mapping* mapping = mappings_.writer_find(iova);
    if (mapping == nullptr) return;  // the container let go of it before the device did
    const std::uint64_t run = std::min(pages, (mapping->last - iova) / kPageSize + 1);
    unpin_run(*mapping, (iova - mapping->first) / kPageSize, run);
    iova += run * kPageSize;
    pages -= run;
  }
}

void Type1::unpin_run(Mapping& mapping, std::uint64_t first, std::uint64_t pages) {
  if (!mapping.pins) return;
  std::vector<PageRun> released_runs;
  if (account_.by_page() && !mapping.iommu_mapped) {
    mapping.pins->for_each_run_with(1, first, pages, [&](std::uint64_t at, std::uint64_t count) {
      released_runs.push_back({.first = at, .count = count});
    });
  }
  const PageRun all{.first = first, .count = mapping.pins->unpin(first, pages)};
  if (mapping.iommu_mapped) return;  // a domain has it pinned, and charged, all the same
  account_.uncharge(mapping, account_.by_page() ? std::span<const PageRun>(released_runs)
                                                : std::span<const PageRun>(&all, 1));
}

}  // namespace uvfio::iommu::type1
