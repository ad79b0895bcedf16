#include "iommu/type1/domain_path.h"

#include <algorithm>
#include <cstring>

#include "base/rcu.h"
#include "iommu/type1/type1.h"

namespace uvfio::iommu::type1 {
namespace {

// Readers may stay in an RCU section for this many bytes.
constexpr std::uint64_t kMaxCopyInSection = 1 << 20;

vfio::Translation translation_of(const PageTable::Leaf& leaf) {
  return {.first = leaf.first,
          .last = leaf.last,
          .host = leaf.target.copy ? nullptr : reinterpret_cast<std::byte*>(leaf.target.address),
          .prot = leaf.prot};
}

}  // namespace

DomainPath::DomainPath(std::shared_ptr<Iommu> keep, Type1& type1, std::shared_ptr<Domain> domain,
                       std::shared_ptr<Unit> unit, std::string device)
    : keep_(std::move(keep)),
      type1_(type1),
      domain_(std::move(domain)),
      unit_(std::move(unit)),
      device_(std::move(device)) {}

const std::atomic<std::uint64_t>& DomainPath::generation() const { return type1_.generation_; }

void DomainPath::report_refused(std::uint64_t iova, std::uint64_t size, Prot prot, Errno error) {
  if (error != Errno{EINVAL} && error != Errno{EPERM}) return;
  unit_->faults().report(
      {.device = device_,
       .iova = iova,
       .size = size,
       .access = prot,
       .reason = error == Errno{EINVAL} ? Fault::Reason::not_present : Fault::Reason::not_permitted,
       .time = {}});
}

std::unexpected<Errno> DomainPath::refuse(std::uint64_t iova, std::uint64_t size, Prot prot,
                                          int error) {
  report_refused(iova, size, prot, Errno{error});
  return fail(error);
}

// What the table says for [iova, iova + size): one page, or several whose memory is contiguous.
Result<vfio::Translation> DomainPath::translate(std::uint64_t iova, std::uint64_t size, Prot prot) {
  const std::uint64_t last = iova + (size - 1);
  if (last < iova) return fail(EINVAL);
  PageTable::Leaf leaf = domain_->walk(iova);
  if (!leaf.present()) return fail(EINVAL);
  vfio::Translation found = translation_of(leaf);
  while (true) {
    if (!vfio::allows(leaf.prot, prot)) return fail(EPERM);
    if (last <= found.last) return found;
    leaf = domain_->walk(found.last + 1);
    if (!leaf.present()) return fail(EINVAL);
    const vfio::Translation next = translation_of(leaf);
    const bool contiguous = found.host == nullptr
                                ? next.host == nullptr
                                : next.host == found.host + (next.first - found.first);
    // Legal DMA, but not one piece of memory: copying goes piece by piece.
    if (!contiguous) return fail(EOPNOTSUPP);
    found.prot =
        static_cast<Prot>(static_cast<unsigned>(found.prot) & static_cast<unsigned>(next.prot));
    found.last = next.last;
  }
}

Result<std::byte*> DomainPath::hold(std::uint64_t iova, std::uint64_t size, Prot prot,
                                    Users*& users) {
  const auto found = translate(iova, size, prot);
  if (!found) return std::unexpected(found.error());
  if (found->host == nullptr) return fail(EOPNOTSUPP);
  // An unmap that has begun meanwhile has taken the mapping out of the tree, and waits for this
  // section.
  Mapping* mapping = type1_.mappings_.find(iova);
  if (mapping == nullptr) return fail(EINVAL);
  if (size - 1 > mapping->last - iova)
    return fail(EOPNOTSUPP);  // two mappings that happen to touch
  std::byte* const host = found->host + (iova - found->first);
  // Another mapping may have come to its place between the two looks.
  if (mapping->host() + (iova - mapping->first) != host) return fail(EAGAIN);
  users = &mapping->users();
  users->enter();
  return host;
}

Status DomainPath::resolve(std::uint64_t) { return {}; }

template <typename Span, typename Copy>
Status DomainPath::copy(std::uint64_t iova, Span data, Prot prot, Copy&& copy_piece) {
  while (!data.empty()) {
    Mapping* mapping = nullptr;
    Users* users = nullptr;
    std::uint64_t run = 0;
    {
      const rcu::ReadGuard guard;
      const PageTable::Leaf leaf = domain_->walk(iova);
      if (!leaf.present()) return refuse(iova, data.size(), prot, EINVAL);
      if (!vfio::allows(leaf.prot, prot)) return refuse(iova, data.size(), prot, EPERM);
      run = std::min<std::uint64_t>(data.size(), leaf.last - iova + 1);
      if (!leaf.target.copy) {
        run = std::min(run, kMaxCopyInSection);
        auto* host = reinterpret_cast<std::byte*>(leaf.target.address) + (iova - leaf.first);
        copy_piece(host, data.first(run));
      } else {
        mapping = type1_.mappings_.find(iova);
        if (mapping == nullptr) return refuse(iova, run, prot, EINVAL);
        run = std::min<std::uint64_t>(data.size(), mapping->last - iova + 1);
        users = &mapping->users();
        users->enter();
      }
    }
    if (mapping != nullptr) {
      const Status copied =
          copy_piece(*mapping->space, mapping->vaddr + (iova - mapping->first), data.first(run));
      users->leave();
      if (!copied) return fail(EFAULT);
    }
    iova += run;
    data = data.subspan(run);
  }
  return {};
}

Status DomainPath::read(std::uint64_t iova, std::span<std::byte> data) {
  struct Read {
    void operator()(std::byte* host, std::span<std::byte> piece) const {
      std::memcpy(piece.data(), host, piece.size());
    }
    Status operator()(memory::AddressSpace& space, std::uint64_t vaddr,
                      std::span<std::byte> piece) const {
      return space.read(vaddr, piece);
    }
  };
  return copy(iova, data, Prot::read, Read());
}

Status DomainPath::write(std::uint64_t iova, std::span<const std::byte> data) {
  struct Write {
    void operator()(std::byte* host, std::span<const std::byte> piece) const {
      std::memcpy(host, piece.data(), piece.size());
    }
    Status operator()(memory::AddressSpace& space, std::uint64_t vaddr,
                      std::span<const std::byte> piece) const {
      return space.write(vaddr, piece);
    }
  };
  return copy(iova, data, Prot::write, Write());
}

}  // namespace uvfio::iommu::type1
