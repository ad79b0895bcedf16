// The type1 IOMMU backend, versions 1 and 2 (drivers/vfio/vfio_iommu_type1.c).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "iommu/iommu.h"
#include "iommu/type1/account.h"
#include "iommu/type1/dirty_bitmap.h"
#include "iommu/type1/iova_ranges.h"
#include "iommu/type1/mapping.h"
#include "iommu/type1/mapping_tree.h"
#include "iommu/unit/domain.h"
#include "uvfio/type1_parameters.h"

namespace uvfio::iommu::type1 {

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
  std::uint64_t page_sizes = 0;           // bitmap
  std::uint32_t dma_avail = 0;            // mappings that may still be made
  std::vector<IovaRanges::Range> ranges;  // that may be mapped; empty: no limits
};

// The IOMMU of one container. One lock serialises changes and pins, as in the kernel; translation
// and DMA take no lock.
//
// Groups of real devices are in domains: each mapping is pinned as a whole, charged, and put into
// the page table of every domain, or of none. Emulated groups need no domain: their devices pin
// what they use, which is charged only where there is no domain that has pinned it all anyway.
class Type1 final : public Iommu, public DmaPath {
 public:
  // `container` is the number that accounts and logs know the container by.
  Type1(bool v2, std::shared_ptr<const Parameters> parameters, unsigned container = 0);
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
  [[nodiscard]] Result<std::shared_ptr<DmaPath>> dma_path(const std::shared_ptr<Iommu>& self,
                                                          IommuGroup& group,
                                                          std::string device) override;

  // DmaPath, for emulated groups.
  [[nodiscard]] Prot prot_of_write() const override { return Prot::read_write; }
  [[nodiscard]] Status read(std::uint64_t iova, std::span<std::byte> data) override {
    return dma_read(iova, data);
  }
  [[nodiscard]] Status write(std::uint64_t iova, std::span<const std::byte> data) override {
    return dma_write(iova, data);
  }
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

  // Everything there is to see, at one moment.
  struct Snapshot {
    struct DomainView {
      std::uint64_t id = 0;
      std::string implementation;
      bool coherent = false;
      std::uint64_t aperture_first = 0;
      std::uint64_t aperture_last = 0;
      std::uint64_t page_sizes = 0;
      std::array<std::uint64_t, 3> leaves{};  // of 4 KiB, 2 MiB, 1 GiB
      std::uint64_t table_bytes = 0;
      std::vector<unsigned> groups;
    };
    struct MappingView {
      std::uint64_t iova = 0;
      std::uint64_t size = 0;  // bytes; 0: 2^64
      std::uint64_t vaddr = 0;
      Prot prot = Prot::none;
      Mapping::Reach reach = Mapping::Reach::unknown;
      bool iommu_mapped = false;
      bool vaddr_invalid = false;
      std::uint64_t pinned_pages = 0;
      std::shared_ptr<memory::AddressSpace> space;
    };
    Info info;
    bool dirty_tracking = false;
    std::vector<unsigned> emulated_groups;
    std::vector<DomainView> domains;
    std::vector<MappingView> mappings;
  };
  [[nodiscard]] Snapshot snapshot();

 private:
  class Removal;
  friend class DomainPath;

  // A domain, and the groups in it in order of attachment.
  struct DomainGroups {
    std::shared_ptr<Domain> domain;
    std::vector<IommuGroup*> groups;
  };

  // groups.cc
  [[nodiscard]] Status attach_real_group(IommuGroup& group);
  [[nodiscard]] Status check_attach(const IommuGroup& group, const Domain& domain,
                                    IovaRanges& ranges) const;
  [[nodiscard]] Status replay(Domain& domain);
  void detach_real_group(IommuGroup& group);
  void drop_iommu_mappings();
  void update_page_sizes();

  // type1.cc
  [[nodiscard]] std::uint64_t page_size() const { return page_sizes_ & (~page_sizes_ + 1); }
  [[nodiscard]] Mapping* find_overlap(std::uint64_t first, std::uint64_t last) const;
  [[nodiscard]] Status update_vaddr(Mapping* mapping, const MapRequest& request,
                                    const Mapper& mapper);
  [[nodiscard]] Status check_unmap(const UnmapRequest& request) const;
  [[nodiscard]] Status check_not_cut(std::uint64_t iova, std::uint64_t last) const;
  [[nodiscard]] Result<std::uint64_t> invalidate_vaddr(std::uint64_t iova, std::uint64_t last);
  void notify_unmap(std::unique_lock<std::mutex>& lock, const Mapping& mapping);
  void unmap_all_locked();

  // domain_mappings.cc
  [[nodiscard]] Status pin_all(Mapping& mapping);
  [[nodiscard]] Status map_in_domain(Domain& domain, const Mapping& mapping) const;
  [[nodiscard]] Status map_in_domains(Mapping& mapping);
  void unmap_from_domains(const Mapping& mapping);
  void wait_for_devices();

  // pins.cc
  [[nodiscard]] Status pin_run(Mapping& mapping, std::uint64_t first, std::uint64_t pages,
                               Prot prot, vfio::PinnedPages& pins);
  void unpin_run(Mapping& mapping, std::uint64_t first, std::uint64_t pages);
  void unpin_locked(std::uint64_t iova, std::uint64_t pages);

  // dirty.cc
  [[nodiscard]] unsigned dirty_shift() const;
  [[nodiscard]] Status attach_dirty_bitmap(Mapping& mapping);
  void drop_dirty_bitmaps_locked();
  void mark_all_dirty();

  // mediated_dma.cc
  [[nodiscard]] bool is_mapped(std::uint64_t first, std::uint64_t last) const;
  template <typename Span, typename Copy>
  Status dma_rw(std::uint64_t iova, Span data, Prot prot, Copy&& copy);

  const bool v2_;
  const std::shared_ptr<const Parameters> parameters_;
  const unsigned container_;
  const Account account_;
  std::mutex device_list_lock_;            // held over dma_unmap callbacks; taken before lock_
  std::vector<vfio::DmaClient*> devices_;  // changed with both locks held

  std::mutex lock_;  // guards everything below but what says otherwise
  std::vector<IommuGroup*> emulated_groups_;
  std::vector<DomainGroups> domains_;
  IovaRanges ranges_;
  std::uint64_t page_sizes_ = 0;  // that every domain has
  MappingTree mappings_;          // owns what it holds; readers need only an RCU section
  std::uint32_t dma_avail_;
  // Readable by anyone; the first counts the mappings that wait for a vaddr.
  std::atomic<std::uint32_t> vaddr_invalid_ = 0;
  std::atomic<bool> dirty_tracking_ = false;
  std::atomic<std::uint64_t> generation_{1};  // readable by anyone

  std::mutex resolve_lock_;  // for Mapping::resolve; taken last
};

// Answers to types VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU.
class Type1Driver final : public Driver {
 public:
  explicit Type1Driver(
      std::shared_ptr<const Parameters> parameters = std::make_shared<Parameters>())
      : parameters_(std::move(parameters)) {}
  [[nodiscard]] std::string_view name() const override { return "vfio-iommu-type1"; }
  [[nodiscard]] int check_extension(std::uint64_t extension) const override;
  [[nodiscard]] Result<std::shared_ptr<Iommu>> open(std::uint64_t type,
                                                    unsigned container) override;

 private:
  const std::shared_ptr<const Parameters> parameters_;
};

}  // namespace uvfio::iommu::type1
