#include <algorithm>
#include <cstring>

#include "base/rcu.h"
#include "iommu/type1/domain_path.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

using memory::kPageSize;

// Where MappingTree::Remembered keeps a Prot.
constexpr std::uint64_t kProtMask = 3;

// Readers may stay in an RCU section for this many bytes.
constexpr std::uint64_t kMaxCopyInSection = 1 << 20;

}  // namespace

Result<std::shared_ptr<DmaPath>> Type1::dma_path(const std::shared_ptr<Iommu>& self,
                                                 IommuGroup& group, std::string device) {
  if (group.type() == GroupType::emulated) return std::shared_ptr<DmaPath>(self, this);
  const std::scoped_lock lock(lock_);
  for (const DomainGroups& entry : domains_) {
    if (std::ranges::find(entry.groups, &group) == entry.groups.end()) continue;
    return std::make_shared<DomainPath>(self, *this, entry.domain, group.unit(), std::move(device));
  }
  return fail(EINVAL);
}

// Is there no hole in [first, last]? In an RCU section.
bool Type1::is_mapped(std::uint64_t first, std::uint64_t last) const {
  if (last < first) return false;
  const Mapping* mapping = mappings_.find(first);
  while (mapping != nullptr && mapping->last < last) mapping = mappings_.find(mapping->last + 1);
  return mapping != nullptr;
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
  if (mapping == nullptr) return fail(EINVAL);
  if (!vfio::allows(mapping->prot, prot)) return fail(EPERM);
  if (size - 1 > mapping->last - iova) {
    return fail(is_mapped(mapping->last + 1, iova + (size - 1)) ? EOPNOTSUPP : EINVAL);
  }
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
  Mapping* mapping = mappings_.find(iova);
  if (mapping == nullptr) return fail(EINVAL);
  // Before translate marks pages dirty: who reports a mark waits for those that were here before
  // it.
  Users& entered = mapping->users();
  entered.enter();
  const auto found = translate(iova, size, prot);
  if (!found || found->host == nullptr || mapping->reach() != Mapping::Reach::direct ||
      found->host != mapping->host()) {
    entered.leave();
    if (!found) return std::unexpected(found.error());
    // Or another mapping came to its place between the two looks.
    return fail(found->host == nullptr ? EOPNOTSUPP : EAGAIN);
  }
  users = &entered;
  return found->host + (iova - found->first);
}

Status Type1::resolve(std::uint64_t iova) {
  Mapping* mapping = nullptr;
  Users* users = nullptr;
  {
    const rcu::ReadGuard guard;
    mapping = mappings_.find(iova);
    if (mapping == nullptr) return fail(EINVAL);
    users = &mapping->users();
    users->enter();
  }
  Status result;
  {
    const std::scoped_lock lock(resolve_lock_);
    result = mapping->resolve();
  }
  users->leave();
  return result;
}

// Walks the mappings under [iova, iova + size of data). READ is needed for both directions, as in
// vfio_iommu_type1_dma_rw_chunk.
template <typename Span, typename Copy>
Status Type1::dma_rw(std::uint64_t iova, Span data, Prot prot, Copy&& copy) {
  if (vaddr_invalid_.load(std::memory_order_acquire) != 0) return fail(EBUSY);
  while (!data.empty()) {
    Mapping* mapping = nullptr;
    Users* users = nullptr;
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
        users = &mapping->users();
        users->enter();
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
      users->leave();
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

}  // namespace uvfio::iommu::type1
