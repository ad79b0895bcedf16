#include "uvfio/dma.h"

#include <algorithm>
#include <cstring>

#include "base/rcu.h"
#include "iommu/iommu.h"
#include "iommu/users.h"

namespace uvfio::iommu {

void PinBuilder::append(vfio::PinnedPages& pins, const vfio::PinnedSegment& segment,
                        std::shared_ptr<const void> view,
                        std::shared_ptr<memory::AddressSpace> space) {
  vfio::PinnedPages::Owner owner{.view = std::move(view), .space = std::move(space)};
  if (pins.first_.size == 0) {
    pins.first_ = segment;
    pins.first_owner_ = std::move(owner);
    return;
  }
  if (pins.more_.empty()) {
    pins.more_.push_back(pins.first_);
    pins.more_owners_.push_back(std::move(pins.first_owner_));
  }
  pins.more_.push_back(segment);
  pins.more_owners_.push_back(std::move(owner));
}

}  // namespace uvfio::iommu

namespace uvfio::vfio {

PinnedPages& PinnedPages::operator=(PinnedPages&& other) noexcept {
  if (this == &other) return *this;
  reset();
  iommu_ = std::move(other.iommu_);
  iova_ = other.iova_;
  pages_ = std::exchange(other.pages_, 0);
  first_ = std::exchange(other.first_, {});
  first_owner_ = std::move(other.first_owner_);
  more_ = std::exchange(other.more_, {});
  more_owners_ = std::exchange(other.more_owners_, {});
  return *this;
}

void PinnedPages::reset() {
  if (pages_ != 0 && iommu_) iommu_->unpin_pages(iova_, pages_);
  iommu_.reset();
  pages_ = 0;
  first_ = {};
  first_owner_ = {};
  more_.clear();
  more_owners_.clear();
}

bool PinnedPages::direct() const {
  return std::ranges::all_of(segments(),
                             [](const auto& segment) { return segment.host != nullptr; });
}

namespace {

// Calls access(index, offset in the segment, run) for the pieces of [offset, offset + size).
template <typename Access>
Status for_each_piece(std::span<const PinnedSegment> segments, std::uint64_t offset,
                      std::uint64_t size, Access&& access) {
  for (std::size_t index = 0; size != 0 && index < segments.size(); ++index) {
    const std::uint64_t length = segments[index].size;
    if (offset >= length) {
      offset -= length;
      continue;
    }
    const std::uint64_t run = std::min(size, length - offset);
    if (auto done = access(index, offset, run); !done) return done;
    offset = 0;
    size -= run;
  }
  return {};
}

}  // namespace

Status PinnedPages::read(std::uint64_t offset, std::span<std::byte> data) const {
  if (offset > size() || data.size() > size() - offset) return fail(EINVAL);
  const auto all = segments();
  return for_each_piece(all, offset, data.size(),
                        [&](std::size_t index, std::uint64_t at, std::uint64_t run) {
                          const auto piece = data.first(run);
                          data = data.subspan(run);
                          const PinnedSegment& segment = all[index];
                          if (segment.host == nullptr)
                            return owner(index).space->read(segment.vaddr + at, piece);
                          std::memcpy(piece.data(), segment.host + at, run);
                          return Status();
                        });
}

Status PinnedPages::write(std::uint64_t offset, std::span<const std::byte> data) const {
  if (offset > size() || data.size() > size() - offset) return fail(EINVAL);
  const auto all = segments();
  return for_each_piece(all, offset, data.size(),
                        [&](std::size_t index, std::uint64_t at, std::uint64_t run) {
                          const auto piece = data.first(run);
                          data = data.subspan(run);
                          const PinnedSegment& segment = all[index];
                          if (segment.host == nullptr)
                            return owner(index).space->write(segment.vaddr + at, piece);
                          std::memcpy(segment.host + at, piece.data(), run);
                          return Status();
                        });
}

Dma::Dma(std::shared_ptr<iommu::DmaPath> path, const std::atomic<bool>* enabled)
    : path_(std::move(path)),
      prot_of_write_(path_->prot_of_write()),
      enabled_(enabled),
      generation_(&path_->generation()) {}
Dma::~Dma() = default;

namespace {

// `size` is not 0.
inline bool covers(const Translation& entry, std::uint64_t iova, std::uint64_t size, Prot prot) {
  // Unsigned: what lies before the first byte is beyond the last, too.
  const std::uint64_t offset = iova - entry.first;
  const std::uint64_t length = entry.last - entry.first;
  return offset <= length && size - 1 <= length - offset && allows(entry.prot, prot);
}

constexpr std::size_t iotlb_index(std::uint64_t iova, std::size_t entries) {
  return (iova / memory::kPageSize) % entries;
}

}  // namespace

// Inside an RCU section; nullptr: not in the IOTLB.
inline const Translation* Dma::cached(std::uint64_t iova, std::uint64_t size, Prot prot) {
  if (generation_->load(std::memory_order_acquire) != iotlb_generation_) [[unlikely]]
    return nullptr;
  if (covers(last_found_, iova, size, prot)) return &last_found_;
  const std::size_t index = iotlb_index(iova, kIotlbEntries);
  if ((iotlb_valid_ >> index & 1) != 0 && covers(iotlb_[index], iova, size, prot))
    return &iotlb_[index];
  return nullptr;
}

// Inside an RCU section: where [iova, iova + size) is in this process; nullptr: reached by copy
// only.
inline Result<std::byte*> Dma::lookup(std::uint64_t iova, std::uint64_t size, Prot prot) {
  const Translation* entry = cached(iova, size, prot);
  if (entry == nullptr) [[unlikely]]
    return lookup_anew(iova, size, prot);
  return entry->host == nullptr ? nullptr : entry->host + (iova - entry->first);
}

Result<std::byte*> Dma::lookup_anew(std::uint64_t iova, std::uint64_t size, Prot prot) {
  const std::uint64_t generation = generation_->load(std::memory_order_acquire);
  const auto found = path_->translate(iova, size, prot);
  if (!found) return std::unexpected(found.error());
  if (generation != iotlb_generation_) {
    iotlb_generation_ = generation;
    iotlb_valid_ = 0;
  }
  const std::size_t index = iotlb_index(iova, kIotlbEntries);
  iotlb_valid_ |= std::uint64_t{1} << index;
  last_found_ = iotlb_[index] = *found;
  return found->host == nullptr ? nullptr : found->host + (iova - found->first);
}

Status Dma::read(std::uint64_t iova, std::span<std::byte> data) {
  if (data.empty()) return fail(EINVAL);
  if (!enabled()) return fail(EACCES);
  {
    const rcu::ReadGuard guard;
    const auto host = lookup(iova, data.size(), Prot::read);
    if (host && *host != nullptr) {
      std::memcpy(data.data(), *host, data.size());
      return {};
    }
  }
  return path_->read(iova, data);
}

Status Dma::write(std::uint64_t iova, std::span<const std::byte> data) {
  if (data.empty()) return fail(EINVAL);
  if (!enabled()) return fail(EACCES);
  {
    const rcu::ReadGuard guard;
    const auto host = lookup(iova, data.size(), prot_of_write_);
    if (host && *host != nullptr) {
      std::memcpy(*host, data.data(), data.size());
      return {};
    }
  }
  return path_->write(iova, data);
}

Dma::Window::~Window() {
  if (data_ != nullptr) rcu::read_unlock();
}

Result<Dma::Window> Dma::translate(std::uint64_t iova, std::uint64_t size, Prot prot) {
  if (size == 0) return fail(EINVAL);
  if (!enabled()) return fail(EACCES);
  rcu::read_lock();
  const Translation* entry = cached(iova, size, prot);
  if (entry != nullptr && entry->host != nullptr) [[likely]]
    return Window(entry->host + (iova - entry->first));
  return translate_anew(iova, size, prot);
}

// In an RCU section, which it leaves if it fails.
Result<Dma::Window> Dma::translate_anew(std::uint64_t iova, std::uint64_t size, Prot prot) {
  for (;; rcu::read_lock()) {
    const auto host = lookup(iova, size, prot);
    if (host && *host != nullptr) [[likely]]
      return Window(*host);
    rcu::read_unlock();
    if (host) return fail(EOPNOTSUPP);
    if (host.error() != Errno{EAGAIN}) {
      path_->report_refused(iova, size, prot, host.error());
      return std::unexpected(host.error());
    }
    if (auto resolved = path_->resolve(iova); !resolved) return std::unexpected(resolved.error());
  }
}

Dma::Hold::~Hold() {
  if (users_ != nullptr) users_->leave();
}

Result<Dma::Hold> Dma::hold(std::uint64_t iova, std::uint64_t size, Prot prot) {
  if (size == 0) return fail(EINVAL);
  if (!enabled()) return fail(EACCES);
  for (;;) {
    {
      const rcu::ReadGuard guard;
      Hold held;
      auto host = path_->hold(iova, size, prot, held.users_);
      if (host) {
        held.data_ = *host;
        return held;
      }
      if (host.error() != Errno{EAGAIN}) {
        path_->report_refused(iova, size, prot, host.error());
        return std::unexpected(host.error());
      }
    }
    if (auto resolved = path_->resolve(iova); !resolved) return std::unexpected(resolved.error());
  }
}

}  // namespace uvfio::vfio
