// The type1 IOMMU backend, versions 1 and 2 (drivers/vfio/vfio_iommu_type1.c).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "iommu/iommu.h"
#include "iommu/type1/dirty_bitmap.h"
#include "iommu/type1/mapping.h"
#include "iommu/type1/mapping_tree.h"

namespace uvfio::iommu::type1 {

// The kernel's module parameters, under their names.
struct Parameters {
  std::uint32_t dma_entry_limit = 65535;  // mappings in one container
};

// VFIO_IOMMU_MAP_DMA.
struct MapRequest {
  std::uint64_t iova = 0;
  std::uint64_t vaddr = 0;
  std::uint64_t size = 0;   // bytes
  std::uint32_t flags = 0;  // VFIO_DMA_MAP_FLAG_*, only known ones
};

// VFIO_IOMMU_UNMAP_DMA.
struct UnmapRequest {
  std::uint64_t iova = 0;
  std::uint64_t size = 0;   // bytes
  std::uint32_t flags = 0;  // VFIO_DMA_UNMAP_FLAG_*, only known and compatible ones
  // With GET_DIRTY_BITMAP.
  std::uint64_t page_size = 0;
  UserBitmap* bitmap = nullptr;
};

// Who maps: the address space, and whether it may lock without limit (CAP_IPC_LOCK).
struct Mapper {
  std::shared_ptr<memory::AddressSpace> space;
  bool lock_cap = false;
};

// What GET_INFO tells.
struct Info {
  std::uint64_t page_sizes = 0;  // bitmap
  std::uint32_t dma_avail = 0;   // mappings that may still be made
};

// The IOMMU of one container. One lock serialises changes and pins, as in the kernel; translation
// and DMA take no lock. Real groups and their domains attach in attach_group and are mapped in map.
class Type1 final : public Iommu {
 public:
  Type1(bool v2, const Parameters& parameters);
  ~Type1() override;
  Type1(const Type1&) = delete;

  // Iommu.
  [[nodiscard]] int check_extension(std::uint64_t extension) override;
  [[nodiscard]] Status attach_group(IommuGroup& group) override;
  void detach_group(IommuGroup& group) override;
  void register_device(vfio::DmaClient& client) override;
  void unregister_device(vfio::DmaClient& client) override;
  [[nodiscard]] Status pin_pages(std::uint64_t iova, std::uint64_t pages, Prot prot,
                                 vfio::PinnedPages& pins) override;
  void unpin_pages(std::uint64_t iova, std::uint64_t pages) override;
  [[nodiscard]] Status dma_read(std::uint64_t iova, std::span<std::byte> data) override;
  [[nodiscard]] Status dma_write(std::uint64_t iova, std::span<const std::byte> data) override;
  [[nodiscard]] Result<vfio::Translation> translate(std::uint64_t iova, std::uint64_t size,
                                                    Prot prot) override;
  [[nodiscard]] Result<std::byte*> hold(std::uint64_t iova, std::uint64_t size, Prot prot,
                                        Users*& users) override;
  [[nodiscard]] Status resolve(std::uint64_t iova) override;
  [[nodiscard]] const std::atomic<std::uint64_t>& generation() const override {
    return generation_;
  }

  // The ioctls; errnos and their order as the kernel's (vfio_dma_do_map and its siblings).
  [[nodiscard]] Status map(const MapRequest& request, const Mapper& mapper);
  // Bytes unmapped.
  [[nodiscard]] Result<std::uint64_t> unmap(const UnmapRequest& request);
  [[nodiscard]] Info info();
  [[nodiscard]] bool v2() const { return v2_; }
  [[nodiscard]] Status start_dirty_tracking();
  void stop_dirty_tracking();
  [[nodiscard]] Status report_dirty(std::uint64_t iova, std::uint64_t size, std::uint64_t page_size,
                                    UserBitmap& bitmap);

  // Mappings and pinned pages now, and the heap that keeps them, for inspection.
  struct Usage {
    std::uint64_t mappings = 0;
    std::uint64_t pinned_pages = 0;
    std::uint64_t memory_bytes = 0;
  };
  [[nodiscard]] Usage usage();

 private:
  class Removal;

  [[nodiscard]] std::uint64_t page_size() const;
  [[nodiscard]] Status check_unmap(const UnmapRequest& request) const;
  [[nodiscard]] Status check_not_cut(std::uint64_t iova, std::uint64_t last) const;
  void notify_unmap(std::unique_lock<std::mutex>& lock, const Mapping& mapping);
  void unmap_all_locked();
  [[nodiscard]] Status pin_run(Mapping& mapping, std::uint64_t first, std::uint64_t pages,
                               Prot prot, vfio::PinnedPages& pins);
  void unpin_locked(std::uint64_t iova, std::uint64_t pages);
  [[nodiscard]] Status attach_dirty_bitmap(Mapping& mapping);
  void drop_dirty_bitmaps_locked();
  template <typename Span, typename Copy>
  Status dma_rw(std::uint64_t iova, Span data, Prot prot, Copy&& copy);

  const bool v2_;
  std::mutex device_list_lock_;            // held over dma_unmap callbacks; taken before lock_
  std::vector<vfio::DmaClient*> devices_;  // changed with both locks held

  std::mutex lock_;  // guards everything below but what says otherwise
  std::vector<IommuGroup*> emulated_groups_;
  MappingTree mappings_;  // owns what it holds; readers need only an RCU section
  std::uint32_t dma_avail_;
  std::atomic<bool> dirty_tracking_ = false;  // readable by anyone
  std::atomic<std::uint64_t> generation_{1};  // readable by anyone

  std::mutex resolve_lock_;  // for Mapping::resolve; taken last
};

// Answers to types VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU.
class Type1Driver final : public Driver {
 public:
  explicit Type1Driver(const Parameters& parameters = {}) : parameters_(parameters) {}
  [[nodiscard]] std::string_view name() const override { return "vfio-iommu-type1"; }
  [[nodiscard]] int check_extension(std::uint64_t extension) const override;
  [[nodiscard]] Result<std::shared_ptr<Iommu>> open(std::uint64_t type) override;

 private:
  const Parameters parameters_;
};

}  // namespace uvfio::iommu::type1
