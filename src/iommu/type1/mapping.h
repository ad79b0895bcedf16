// One mapping of the client's (the kernel's vfio_dma).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "iommu/type1/dirty_bitmap.h"
#include "iommu/type1/pin_table.h"
#include "iommu/users.h"
#include "uvfio/dma.h"
#include "uvfio/memory.h"

namespace uvfio::iommu::type1 {

// Readers find it through the MappingTree inside an RCU section; what they touch there is immutable
// or atomic. The rest belongs to the holder of Type1's lock.
class alignas(64) Mapping {
 public:
  // How the memory behind the mapping is reached; found out on first use, because MAP_DMA does not
  // look at the memory when no IOMMU domain needs it.
  enum class Reach : std::uint8_t { unknown, direct, copy };

  // MAP_DMA's arguments and who called it.
  Mapping(std::uint64_t iova, std::uint64_t user_address, std::uint64_t bytes, vfio::Prot access,
          bool may_lock, std::shared_ptr<memory::AddressSpace> mapper)
      : first(iova),
        last(iova + bytes - 1),
        vaddr(user_address),
        prot(access),
        lock_cap(may_lock),
        space(std::move(mapper)) {}
  ~Mapping() { delete dirty.load(std::memory_order_relaxed); }
  Mapping(const Mapping&) = delete;

  // What DMA needs comes first, in one cache line.
  const std::uint64_t first;
  const std::uint64_t last;
  // Dirty tracking: nullptr while it is off. Written under Type1's lock, freed after a grace
  // period.
  std::atomic<DirtyBitmap*> dirty{nullptr};

 private:
  std::byte* host_ = nullptr;
  std::array<Users, 2> users_;  // of even and of odd epochs
  std::atomic<unsigned> epoch_{0};
  std::atomic<Reach> reach_{Reach::unknown};

 public:
  const std::uint64_t vaddr;
  const vfio::Prot prot;
  const bool lock_cap;  // the mapping process had CAP_IPC_LOCK
  const std::shared_ptr<memory::AddressSpace> space;

  [[nodiscard]] std::uint64_t size() const { return last - first + 1; }  // 0: the whole 2^64
  [[nodiscard]] std::uint64_t pages() const { return (last - first) / memory::kPageSize + 1; }
  [[nodiscard]] Reach reach() const { return reach_.load(std::memory_order_acquire); }
  // Memory of `first` if reach() is direct.
  [[nodiscard]] std::byte* host() const { return host_; }

  // Finds out reach(). One thread at a time; takes system calls. ESRCH: the memory is not
  // there now, and reach() stays unknown.
  [[nodiscard]] Status resolve();
  // What keeps host() alive.
  [[nodiscard]] const std::shared_ptr<const void>& view_owner() const { return view_owner_; }

  // Users outside of RCU sections: an unmap waits for them. Leave the same object that was entered.
  [[nodiscard]] Users& users() { return users_[epoch_.load(std::memory_order_acquire) % 2]; }
  void wait_for_users() const {
    for (const Users& each : users_) each.wait();
  }
  // To wait for those that are here while others may come: begin an epoch, then wait for a grace
  // period and for the users of the last epoch. With Type1's lock held.
  void begin_epoch() { epoch_.fetch_add(1, std::memory_order_release); }
  void wait_for_last_epoch() const {
    users_[(epoch_.load(std::memory_order_relaxed) + 1) % 2].wait();
  }

  // Guarded by Type1's lock.
  std::unique_ptr<PinTable> pins;
  bool iommu_mapped = false;   // in every domain's table, all pages pinned and charged
  bool vaddr_invalid = false;  // UNMAP_DMA with VADDR: `vaddr` is to be given anew

  // Takes over how the memory is reached, when only its address in the client changes.
  void adopt_reach(const Mapping& other);

 private:
  std::shared_ptr<const void> view_owner_;
};

}  // namespace uvfio::iommu::type1
