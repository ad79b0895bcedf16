#include "iommu/type1/type1.h"

#include <linux/vfio.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "base/log.h"
#include "base/rcu.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// VFIO_IOMMU_NOTIFY_MAX: how often devices are asked to unpin before an unmap gives up.
constexpr unsigned kMaxNotifications = 10;

// Where MappingTree::Remembered keeps a Prot.
constexpr std::uint64_t kProtMask = 3;

// Readers may stay in an RCU section for this many bytes.
constexpr std::uint64_t kMaxCopyInSection = 1 << 20;

// Replaced tree nodes that a container keeps before a map waits for a grace period.
constexpr std::size_t kMaxGarbage = 1024;

// Does a range of `size` bytes from `start` leave the 64-bit space? `size` is not 0.
constexpr bool wraps(std::uint64_t start, std::uint64_t size) { return start + (size - 1) < start; }

}  // namespace

// Mappings on their way out: gone from the tree, still seen by readers.
class Type1::Removal {
 public:
  explicit Removal(Type1& iommu) : iommu_(iommu) {}
  ~Removal() { finish(); }
  Removal(const Removal&) = delete;

  // With lock_ held; needs publish() before the lock is dropped.
  void take(Mapping& mapping) {
    iommu_.mappings_.erase(mapping);
    ++iommu_.dma_avail_;
    if (mapping.pins) mapping.space->locked().uncharge(mapping.pins->pinned());
    mappings_.emplace_back(&mapping);
  }
  void publish() {
    if (mappings_.empty()) return;
    iommu_.mappings_.publish();
    iommu_.generation_.fetch_add(1, std::memory_order_release);
  }
  // Nobody reads or writes through the mapping any longer on return.
  void wait_for_readers(const Mapping& mapping) {
    publish();
    rcu::synchronize();
    mapping.wait_for_users();
  }
  // Waits for the last reader and frees. With lock_ held.
  void finish() {
    if (mappings_.empty()) return;
    publish();
    rcu::synchronize();
    iommu_.mappings_.reclaim();
    for (const auto& mapping : mappings_) mapping->wait_for_users();
    mappings_.clear();
  }

 private:
  Type1& iommu_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
};

Type1::Type1(bool v2, const Parameters& parameters)
    : v2_(v2), dma_avail_(parameters.dma_entry_limit) {}

Type1::~Type1() {
  const std::scoped_lock lock(lock_);
  unmap_all_locked();
}

// With no domain every size from 4 KiB on will do (PAGE_MASK).
std::uint64_t Type1::page_size() const { return kPageSize; }

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
    case VFIO_DMA_CC_IOMMU:
      return 1;  // every domain enforces coherency: there is none that does not
    default:
      return 0;
  }
}

Status Type1::attach_group(IommuGroup& group) {
  const std::scoped_lock lock(lock_);
  if (std::ranges::find(emulated_groups_, &group) != emulated_groups_.end()) return fail(EINVAL);
  // A real group gets a domain here, with every mapping replayed onto it; there are no IOMMU units
  // yet.
  if (group.type() != GroupType::emulated) return fail(ENODEV);
  emulated_groups_.push_back(&group);
  return {};
}

void Type1::detach_group(IommuGroup& group) {
  const std::scoped_lock lock(lock_);
  std::erase(emulated_groups_, &group);
  if (emulated_groups_.empty()) unmap_all_locked();
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
  const Mapping* overlap = mappings_.writer_at_or_after(request.iova);
  if (overlap != nullptr && overlap->first > request.iova + (request.size - 1)) overlap = nullptr;
  if (set_vaddr) {
    // Mappings lose their vaddr only while no emulated group is attached, so here all have one.
    return fail(overlap == nullptr ? ENOENT : EINVAL);
  }
  if (overlap != nullptr) return fail(EEXIST);
  if (dma_avail_ == 0) return fail(ENOSPC);

  auto mapping = std::make_unique<Mapping>(request.iova, request.vaddr, request.size, prot,
                                           mapper.lock_cap, mapper.space);
  if (dirty_tracking_) {
    if (auto attached = attach_dirty_bitmap(*mapping); !attached) return attached;
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
  for (Mapping* mapping = mappings_.writer_at_or_after(request.iova);
       mapping != nullptr && mapping->first <= last;
       mapping = mappings_.writer_at_or_after(request.iova)) {
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
  return {.page_sizes = ~(page_size() - 1), .dma_avail = dma_avail_};
}

Status Type1::pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot,
                        vfio::PinnedPages& pins) {
  if (!v2_) return fail(EACCES);
  if (pages > kMax / kPageSize || wraps(iova, pages * kPageSize)) return fail(EOVERFLOW);
  const std::scoped_lock lock(lock_);
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
  try {
    if (!mapping.pins) mapping.pins = std::make_unique<PinTable>();
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
    if (allowed) {
      allowed = mapping.space->locked().charge(
          fresh, mapping.lock_cap ? kMax : mapping.space->lock_limit());
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
    if (mapping->pins) {
      mapping->space->locked().uncharge(
          mapping->pins->unpin((iova - mapping->first) / kPageSize, run));
    }
    iova += run * kPageSize;
    pages -= run;
  }
}

Result<vfio::Translation> Type1::translate(std::uint64_t iova, std::uint64_t size, Prot prot) {
  const bool tracking = dirty_tracking_.load(std::memory_order_acquire);
  if (!tracking) {
    const auto known = mappings_.remembered(iova);
    const auto allowed = static_cast<Prot>(known.host & kProtMask);
    if (known.host != 0 && size - 1 <= known.last - iova && vfio::allows(allowed, prot)) {
      return vfio::Translation{.first = known.first,
                               .last = known.last,
                               .host = reinterpret_cast<std::byte*>(known.host & ~kProtMask),
                               .prot = allowed};
    }
  }
  Mapping* mapping = mappings_.find(iova);
  if (mapping == nullptr || size - 1 > mapping->last - iova) return fail(EINVAL);
  if (!vfio::allows(mapping->prot, prot)) return fail(EPERM);
  const auto reach = mapping->reach();
  if (reach == Mapping::Reach::unknown) return fail(EAGAIN);
  Prot cacheable = mapping->prot;
  if (DirtyBitmap* dirty = mapping->dirty.load(std::memory_order_acquire)) {
    cacheable = Prot::read;  // each write has to come here to be marked
    if (vfio::allows(prot, Prot::write)) {
      const std::uint64_t first = (iova - mapping->first) / kPageSize;
      dirty->set(first, (iova + (size - 1) - mapping->first) / kPageSize - first + 1);
    }
  }
  const auto host = reinterpret_cast<std::uint64_t>(mapping->host());
  if (!tracking && reach == Mapping::Reach::direct && (host & kProtMask) == 0) {
    mappings_.remember(*mapping, host | static_cast<std::uint64_t>(mapping->prot));
  }
  return vfio::Translation{.first = mapping->first,
                           .last = mapping->last,
                           .host = reach == Mapping::Reach::direct ? mapping->host() : nullptr,
                           .prot = cacheable};
}

Result<std::byte*> Type1::hold(std::uint64_t iova, std::uint64_t size, Prot prot, Users*& users) {
  const auto found = translate(iova, size, prot);
  if (!found) return std::unexpected(found.error());
  if (found->host == nullptr) return fail(EOPNOTSUPP);
  Mapping* mapping = mappings_.find(iova);
  if (mapping == nullptr) return fail(EAGAIN);  // went between the two looks at the tree
  mapping->users().enter();
  users = &mapping->users();
  return found->host + (iova - found->first);
}

Status Type1::resolve(std::uint64_t iova) {
  Mapping* mapping = nullptr;
  {
    const rcu::ReadGuard guard;
    mapping = mappings_.find(iova);
    if (mapping == nullptr) return fail(EINVAL);
    mapping->users().enter();
  }
  Status result;
  {
    const std::scoped_lock lock(resolve_lock_);
    result = mapping->resolve();
  }
  mapping->users().leave();
  return result;
}

// Walks the mappings under [iova, iova + size of data). READ is needed for both directions:
// quirk 6.
template <typename Span, typename Copy>
Status Type1::dma_rw(std::uint64_t iova, Span data, Prot prot, Copy&& copy) {
  while (!data.empty()) {
    Mapping* mapping = nullptr;
    std::uint64_t run = 0;
    bool done = false;
    {
      const rcu::ReadGuard guard;
      mapping = mappings_.find(iova);
      if (mapping == nullptr) return fail(EINVAL);
      run = std::min<std::uint64_t>(data.size(), mapping->last - iova + 1);
      if (!vfio::allows(mapping->prot, prot | Prot::read)) return fail(EPERM);
      if (mapping->reach() == Mapping::Reach::direct) {
        run = std::min(run, kMaxCopyInSection);
        copy(mapping->host() + (iova - mapping->first), data.first(run));
        done = true;
      } else {
        mapping->users().enter();
      }
      if (DirtyBitmap* dirty = mapping->dirty.load(std::memory_order_acquire);
          dirty != nullptr && prot == Prot::write) {
        const std::uint64_t first = (iova - mapping->first) / kPageSize;
        dirty->set(first, (iova + (run - 1) - mapping->first) / kPageSize - first + 1);
      }
    }
    if (!done) {
      Status copied;
      if (mapping->reach() == Mapping::Reach::unknown) {
        const std::scoped_lock lock(resolve_lock_);
        copied = mapping->resolve();
      }
      if (copied && mapping->reach() == Mapping::Reach::copy) {
        copied = copy(*mapping->space, mapping->vaddr + (iova - mapping->first), data.first(run));
        done = true;
      }
      mapping->users().leave();
      if (!copied) return copied.error() == Errno{ESRCH} ? fail(EPERM) : copied;
      if (!done) continue;  // known to be direct by now
    }
    iova += run;
    data = data.subspan(run);
  }
  return {};
}

Status Type1::dma_read(std::uint64_t iova, std::span<std::byte> data) {
  struct Read {
    void operator()(std::byte* host, std::span<std::byte> piece) const {
      std::memcpy(piece.data(), host, piece.size());
    }
    Status operator()(memory::AddressSpace& space, std::uint64_t vaddr,
                      std::span<std::byte> piece) const {
      return space.read(vaddr, piece);
    }
  };
  return dma_rw(iova, data, Prot::read, Read());
}

Status Type1::dma_write(std::uint64_t iova, std::span<const std::byte> data) {
  struct Write {
    void operator()(std::byte* host, std::span<const std::byte> piece) const {
      std::memcpy(host, piece.data(), piece.size());
    }
    Status operator()(memory::AddressSpace& space, std::uint64_t vaddr,
                      std::span<const std::byte> piece) const {
      return space.write(vaddr, piece);
    }
  };
  return dma_rw(iova, data, Prot::write, Write());
}

// Everything that is pinned counts as written at any time.
static void mark_pinned(const Mapping& mapping) {
  if (!mapping.pins) return;
  DirtyBitmap& dirty = *mapping.dirty.load(std::memory_order_relaxed);
  mapping.pins->for_each_run(
      [&](std::uint64_t first, std::uint64_t count) { dirty.set(first, count); });
}

Status Type1::attach_dirty_bitmap(Mapping& mapping) {
  if (mapping.pages() > DirtyBitmap::kMaxPages) return fail(EINVAL);
  try {
    mapping.dirty.store(new DirtyBitmap(mapping.pages()), std::memory_order_release);
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM);
  }
  mark_pinned(mapping);
  return {};
}

template <typename Visit>
static void for_each_mapping(const MappingTree& mappings, std::uint64_t first, std::uint64_t last,
                             Visit&& visit) {
  for (Mapping* mapping = mappings.writer_at_or_after(first);
       mapping != nullptr && mapping->first <= last;
       mapping = mappings.writer_at_or_after(mapping->last + 1)) {
    if (!visit(*mapping) || mapping->last == kMax) return;
  }
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
    result = dirty.report(bitmap, (mapping.first - iova) / page_size(), DirtyBitmap::Take::yes);
    if (result) mark_pinned(mapping);
    return result.has_value();
  });
  // A write that was marked before the report has to be in memory before the client hears of it.
  rcu::synchronize();
  for_each_mapping(mappings_, iova, last, [](Mapping& mapping) {
    mapping.wait_for_users();
    return true;
  });
  return result;
}

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

Result<std::shared_ptr<Iommu>> Type1Driver::open(std::uint64_t type) {
  switch (type) {
    case VFIO_TYPE1_IOMMU:
      return std::make_shared<Type1>(false, parameters_);
    case VFIO_TYPE1v2_IOMMU:
      return std::make_shared<Type1>(true, parameters_);
    default:
      return fail(EINVAL);
  }
}

}  // namespace uvfio::iommu::type1
