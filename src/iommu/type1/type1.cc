#include "iommu/type1/type1.h"

#include <linux/vfio.h>

#include <algorithm>
#include <limits>

#include "base/log.h"
#include "base/rcu.h"
#include "iommu/type1/for_each_mapping.h"
#include "iommu/type1/removal.h"
#include "iommu/type1/wraps.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// VFIO_IOMMU_NOTIFY_MAX: how often devices are asked to unpin before an unmap gives up.
constexpr unsigned kMaxNotifications = 10;

// Replaced tree nodes that a container keeps before a map waits for a grace period.
constexpr std::size_t kMaxGarbage = 1024;

}  // namespace

void Type1::Removal::take(Mapping& mapping) {
  iommu_.unmap_from_domains(mapping);
  iommu_.mappings_.erase(mapping);
  ++iommu_.dma_avail_;
  if (mapping.vaddr_invalid) --iommu_.vaddr_invalid_;
  iommu_.account_.uncharge(mapping, iommu_.account_.charged(mapping));
  mappings_.emplace_back(&mapping);
}

void Type1::Removal::publish() {
  if (mappings_.empty()) return;
  iommu_.mappings_.publish();
  iommu_.generation_.fetch_add(1, std::memory_order_release);
}

void Type1::Removal::wait_for_readers(const Mapping& mapping) {
  publish();
  rcu::synchronize();
  mapping.wait_for_users();
}

void Type1::Removal::finish() {
  if (mappings_.empty()) return;
  publish();
  rcu::synchronize();
  iommu_.mappings_.reclaim();
  for (const DomainGroups& entry : iommu_.domains_) entry.domain->reclaim();
  for (const auto& mapping : mappings_) mapping->wait_for_users();
  mappings_.clear();
}

Type1::Type1(bool v2, std::shared_ptr<const Parameters> parameters, unsigned container)
    : v2_(v2),
      parameters_(std::move(parameters)),
      container_(container),
      account_(parameters_->accounting, container),
      dma_avail_(parameters_->dma_entry_limit) {
  update_page_sizes();
}

Type1::~Type1() {
  const std::scoped_lock lock(lock_);
  unmap_all_locked();
}

int Type1::check_extension(std::uint64_t extension) {
  switch (extension) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1v2_IOMMU:
    case VFIO_UNMAP_ALL:
      return 1;
    case VFIO_UPDATE_VADDR: {
      const std::scoped_lock lock(lock_);
      return emulated_groups_.empty() ? 1 : 0;
    }
    case VFIO_DMA_CC_IOMMU: {
      const std::scoped_lock lock(lock_);
      return std::ranges::all_of(domains_,
                                 [](const auto& entry) { return entry.domain->coherent(); })
                 ? 1
                 : 0;
    }
    default:
      return 0;
  }
}

void Type1::register_device(vfio::DmaClient& client) {
  const std::scoped_lock lock(device_list_lock_, lock_);
  devices_.push_back(&client);
}

void Type1::unregister_device(vfio::DmaClient& client) {
  const std::scoped_lock lock(device_list_lock_, lock_);
  std::erase(devices_, &client);
}

Status Type1::map(const MapRequest& request, const Mapper& mapper) {
  if (request.size == 0) return fail(EINVAL);
  if (wraps(request.iova, request.size) || wraps(request.vaddr, request.size))
    return fail(EOVERFLOW);
  const bool set_vaddr = (request.flags & VFIO_DMA_MAP_FLAG_VADDR) != 0;
  Prot prot = Prot::none;
  if ((request.flags & VFIO_DMA_MAP_FLAG_READ) != 0) prot = prot | Prot::read;
  if ((request.flags & VFIO_DMA_MAP_FLAG_WRITE) != 0) prot = prot | Prot::write;
  if (set_vaddr == (prot != Prot::none)) return fail(EINVAL);

  const std::scoped_lock lock(lock_);
  if (((request.iova | request.vaddr | request.size) & (page_size() - 1)) != 0) return fail(EINVAL);
  const std::uint64_t last = request.iova + (request.size - 1);
  Mapping* overlap = find_overlap(request.iova, last);
  if (set_vaddr) return update_vaddr(overlap, request, mapper);
  if (overlap != nullptr) return fail(EEXIST);
  if (dma_avail_ == 0) return fail(ENOSPC);
  if (!ranges_.contains(request.iova, last)) return fail(EINVAL);

  auto mapping = std::make_unique<Mapping>(request.iova, request.vaddr, request.size, prot,
                                           mapper.lock_cap, mapper.space);
  if (!domains_.empty()) {
    if (auto mapped = map_in_domains(*mapping); !mapped) return mapped;
  }
  if (dirty_tracking_) {
    if (auto attached = attach_dirty_bitmap(*mapping); !attached) {
      if (mapping->iommu_mapped) unmap_from_domains(*mapping);
      wait_for_devices();
      account_.uncharge(*mapping, account_.charged(*mapping));
      return attached;
    }
  }
  --dma_avail_;
  mappings_.insert(*mapping.release());
  mappings_.publish();
  if (mappings_.garbage() > kMaxGarbage) {
    rcu::synchronize();
    mappings_.reclaim();
  }
  return {};
}

// The first mapping that has something of [first, last].
Mapping* Type1::find_overlap(std::uint64_t first, std::uint64_t last) const {
  Mapping* mapping = mappings_.writer_at_or_after(first);
  return mapping != nullptr && mapping->first <= last ? mapping : nullptr;
}

// MAP_DMA with VADDR: the client, or its successor, says where the memory is now.
Status Type1::update_vaddr(Mapping* mapping, const MapRequest& request, const Mapper& mapper) {
  if (mapping == nullptr) return fail(ENOENT);
  if (!mapping->vaddr_invalid || mapping->first != request.iova ||
      mapping->last != request.iova + (request.size - 1)) {
    return fail(EINVAL);
  }
  // vfio_change_dma_owner, which leaves the owner as it was if it is the same. Without emulated
  // groups nothing is pinned but by the domains, if there are any.
  const bool lock_cap = mapper.space == mapping->space ? mapping->lock_cap : mapper.lock_cap;
  auto moved = std::make_unique<Mapping>(request.iova, request.vaddr, request.size, mapping->prot,
                                         lock_cap, mapper.space);
  const std::vector<PageRun> charged = account_.charged(*mapping);
  if (mapper.space != mapping->space || account_.by_page()) {
    if (auto taken = account_.charge(*moved, *moved->space, moved->lock_cap, charged); !taken) {
      return taken;
    }
    account_.uncharge(*mapping, charged);
  }
  moved->iommu_mapped = mapping->iommu_mapped;
  // Pages that no domain holds are looked for at the new address when they are wanted.
  if (mapping->iommu_mapped) moved->adopt_reach(*mapping);
  moved->pins = std::move(mapping->pins);
  moved->dirty.store(mapping->dirty.exchange(nullptr));
  mappings_.erase(*mapping);
  mappings_.insert(*moved.release());
  mappings_.publish();
  --vaddr_invalid_;
  generation_.fetch_add(1, std::memory_order_release);
  rcu::synchronize();
  mappings_.reclaim();
  mapping->wait_for_users();
  delete mapping;
  return {};
}

// UNMAP_DMA with VADDR: all mappings in the range lose theirs, or none.
Result<std::uint64_t> Type1::invalidate_vaddr(std::uint64_t iova, std::uint64_t last) {
  std::vector<Mapping*> marked;
  std::uint64_t bytes = 0;
  bool again = false;
  for_each_mapping(mappings_, iova, last, [&](Mapping& mapping) {
    if (!v2_ && mapping.first < iova) return false;
    again = mapping.vaddr_invalid;
    if (again) return false;
    marked.push_back(&mapping);
    bytes += mapping.size();
    return true;
  });
  if (again) return fail(EINVAL);
  for (Mapping* mapping : marked) mapping->vaddr_invalid = true;
  vaddr_invalid_ += static_cast<std::uint32_t>(marked.size());
  return bytes;
}

// A mapping must lie in [iova, last] wholly or not at all.
Status Type1::check_not_cut(std::uint64_t iova, std::uint64_t last) const {
  const Mapping* at_start = mappings_.writer_find(iova);
  if (at_start != nullptr && at_start->first != iova) return fail(EINVAL);
  const Mapping* at_end = mappings_.writer_find(last);
  if (at_end != nullptr && at_end->last != last) return fail(EINVAL);
  return {};
}

Status Type1::check_unmap(const UnmapRequest& request) const {
  const bool all = (request.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0;
  if ((request.flags & VFIO_DMA_UNMAP_FLAG_VADDR) != 0 && !emulated_groups_.empty())
    return fail(EBUSY);
  if (request.iova % page_size() != 0) return fail(EINVAL);
  if (all) {
    if (request.iova != 0 || request.size != 0) return fail(EINVAL);
  } else {
    if (request.size == 0 || request.size % page_size() != 0) return fail(EINVAL);
    if (wraps(request.iova, request.size)) return fail(EOVERFLOW);
  }
  if (request.bitmap != nullptr && (!dirty_tracking_ || request.page_size != page_size())) {
    return fail(EINVAL);
  }
  return {};
}

Result<std::uint64_t> Type1::unmap(const UnmapRequest& request) {
  std::unique_lock lock(lock_);
  if (auto checked = check_unmap(request); !checked) return std::unexpected(checked.error());
  const bool all = (request.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0;
  const std::uint64_t last = all ? kMax : request.iova + (request.size - 1);

  Removal removal(*this);
  std::uint64_t unmapped = 0;
  const Mapping* asked = nullptr;  // whose devices were asked to unpin, and how often
  unsigned asked_times = 0;
again:
  // Again, too: tracking may have stopped while the lock was dropped.
  if (request.bitmap != nullptr && !dirty_tracking_) return fail(EINVAL);
  if (v2_ && !all) {
    if (auto whole = check_not_cut(request.iova, last); !whole)
      return std::unexpected(whole.error());
  }
  if ((request.flags & VFIO_DMA_UNMAP_FLAG_VADDR) != 0) return invalidate_vaddr(request.iova, last);
  for (Mapping* mapping = find_overlap(request.iova, last); mapping != nullptr;
       mapping = find_overlap(request.iova, last)) {
    if (!v2_ && mapping->first < request.iova) break;  // the old rule: it is in the way
    if (mapping->pins && mapping->pins->pinned() != 0) {
      asked_times = asked == mapping ? asked_times + 1 : 1;
      asked = mapping;
      if (asked_times > kMaxNotifications) {
        spdlog::error(
            "unmap of iova {:#x}, size {:#x}: a device keeps {} pages pinned after {} requests",
            mapping->first, mapping->size(), mapping->pins->pinned(), kMaxNotifications);
        return fail(EBUSY);
      }
      removal.publish();  // the callbacks must not see what is gone already
      notify_unmap(lock, *mapping);
      goto again;  // the lock was dropped: anything may have changed
    }
    const std::uint64_t at = (mapping->first - request.iova) / page_size();
    DirtyBitmap* const dirty = mapping->dirty.load();
    if (request.bitmap != nullptr) {
      if (mapping->iommu_mapped) dirty->set_all();
      if (auto told = dirty->report(*request.bitmap, at, DirtyBitmap::Take::no); !told) {
        return std::unexpected(told.error());
      }
    }
    unmapped += mapping->size();
    removal.take(*mapping);
    if (request.bitmap != nullptr) {
      // Once more when no device can write any longer: the last writes count, too.
      removal.wait_for_readers(*mapping);
      static_cast<void>(dirty->report(*request.bitmap, at, DirtyBitmap::Take::no));
    }
  }
  return unmapped;
}

// Asks every device to unpin the mapping, without lock_.
void Type1::notify_unmap(std::unique_lock<std::mutex>& lock, const Mapping& mapping) {
  const std::uint64_t iova = mapping.first;
  const std::uint64_t size = mapping.size();
  lock.unlock();
  {
    const std::scoped_lock list_lock(device_list_lock_);
    for (vfio::DmaClient* client : devices_) client->dma_unmap(iova, size);
  }
  lock.lock();
}

void Type1::unmap_all_locked() {
  Removal removal(*this);
  while (Mapping* mapping = mappings_.writer_at_or_after(0)) {
    if (mapping->pins && mapping->pins->pinned() != 0) {
      spdlog::warn("iova {:#x}: {} pages are still pinned while the last group leaves; released",
                   mapping->first, mapping->pins->pinned());
    }
    removal.take(*mapping);
  }
}

Info Type1::info() {
  const std::scoped_lock lock(lock_);
  return {.page_sizes = page_sizes_, .dma_avail = dma_avail_, .ranges = ranges_.list()};
}

int Type1Driver::check_extension(std::uint64_t extension) const {
  switch (extension) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1v2_IOMMU:
    case VFIO_UNMAP_ALL:
      return 1;
    default:
      return 0;
  }
}

Result<std::shared_ptr<Iommu>> Type1Driver::open(std::uint64_t type, unsigned container) {
  switch (type) {
    case VFIO_TYPE1_IOMMU:
      return std::make_shared<Type1>(false, parameters_, container);
    case VFIO_TYPE1v2_IOMMU:
      return std::make_shared<Type1>(true, parameters_, container);
    default:
      return fail(EINVAL);
  }
}

}  // namespace uvfio::iommu::type1
