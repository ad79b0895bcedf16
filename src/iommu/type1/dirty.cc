#include <bit>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "base/rcu.h"
#include "iommu/type1/for_each_mapping.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

}  // namespace

// Everything that is pinned counts as written at any time.
static void mark_pinned(const Mapping& mapping) {
  if (!mapping.pins) return;
  DirtyBitmap& dirty = *mapping.dirty.load(std::memory_order_relaxed);
  mapping.pins->for_each_run(
      [&](std::uint64_t first, std::uint64_t count) { dirty.set(first, count); });
}

// A bit of a dirty bitmap stands for the smallest page, of 2^shift times 4 KiB.
unsigned Type1::dirty_shift() const {
  return static_cast<unsigned>(std::countr_zero(page_size())) - memory::kPageShift;
}

Status Type1::attach_dirty_bitmap(Mapping& mapping) {
  if (mapping.pages() >> dirty_shift() > DirtyBitmap::kMaxPages) return fail(EINVAL);
  try {
    mapping.dirty.store(new DirtyBitmap(mapping.pages(), dirty_shift()), std::memory_order_release);
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM);
  }
  mark_pinned(mapping);
  return {};
}

Status Type1::start_dirty_tracking() {
  const std::scoped_lock lock(lock_);
  if (dirty_tracking_) return {};
  Status result;
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    result = attach_dirty_bitmap(mapping);
    return result.has_value();
  });
  if (!result) {
    drop_dirty_bitmaps_locked();
    return result;
  }
  dirty_tracking_ = true;
  // Cached translations allow writes that nobody would mark.
  generation_.fetch_add(1, std::memory_order_release);
  rcu::synchronize();
  return {};
}

void Type1::stop_dirty_tracking() {
  const std::scoped_lock lock(lock_);
  if (!dirty_tracking_) return;
  dirty_tracking_ = false;
  drop_dirty_bitmaps_locked();
}

void Type1::drop_dirty_bitmaps_locked() {
  std::vector<std::unique_ptr<DirtyBitmap>> dropped;
  for_each_mapping(mappings_, 0, kMax, [&](Mapping& mapping) {
    dropped.emplace_back(mapping.dirty.exchange(nullptr, std::memory_order_acq_rel));
    return true;
  });
  rcu::synchronize();
}

Status Type1::report_dirty(std::uint64_t iova, std::uint64_t size, std::uint64_t page_size_asked,
                           UserBitmap& bitmap) {
  const std::scoped_lock lock(lock_);
  if (page_size_asked != page_size() || ((iova | size) & (page_size() - 1)) != 0)
    return fail(EINVAL);
  if (!dirty_tracking_) return fail(EINVAL);
  const std::uint64_t last = iova + (size - 1);
  if (auto whole = check_not_cut(iova, last); !whole) return whole;
  Status result;
  for_each_mapping(mappings_, iova, last, [&](Mapping& mapping) {
    DirtyBitmap& dirty = *mapping.dirty.load(std::memory_order_relaxed);
    // Nobody knows what devices behind an IOMMU unit have written.
    if (mapping.iommu_mapped) dirty.set_all();
    result = dirty.report(bitmap, (mapping.first - iova) / page_size(), DirtyBitmap::Take::yes);
    if (result) mark_pinned(mapping);
    mapping.begin_epoch();
    return result.has_value();
  });
  // A write that was marked before the report has to be in memory before the client hears of it.
  rcu::synchronize();
  for_each_mapping(mappings_, iova, last, [](Mapping& mapping) {
    mapping.wait_for_last_epoch();
    return true;
  });
  return result;
}

// vfio_iommu_populate_bitmap_full: a group has left that could have written anything.
void Type1::mark_all_dirty() {
  if (!dirty_tracking_) return;
  for_each_mapping(mappings_, 0, kMax, [](Mapping& mapping) {
    mapping.dirty.load(std::memory_order_relaxed)->set_all();
    return true;
  });
}

}  // namespace uvfio::iommu::type1
