// The DMA of a device behind an IOMMU unit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "iommu/iommu.h"
#include "iommu/unit/domain.h"
#include "iommu/unit/fault_queue.h"

namespace uvfio::iommu::type1 {

class Type1;

// One DMA engine's way through its domain: the page table behind its IOTLB (vfio::Dma). What the
// table does not allow goes to the unit's fault queue and never reaches memory.
class DomainPath final : public DmaPath {
 public:
  // `keep` is the reference that keeps `type1`.
  DomainPath(std::shared_ptr<Iommu> keep, Type1& type1, std::shared_ptr<Domain> domain,
             std::shared_ptr<Unit> unit, std::string device);

  [[nodiscard]] Prot prot_of_write() const override { return Prot::write; }
  [[nodiscard]] Result<vfio::Translation> translate(std::uint64_t iova, std::uint64_t size,
                                                    Prot prot) override;
  [[nodiscard]] Result<std::byte*> hold(std::uint64_t iova, std::uint64_t size, Prot prot,
                                        Users*& users) override;
  // Never asked for: MAP_DMA has found the memory.
  [[nodiscard]] Status resolve(std::uint64_t iova) override;
  void report_refused(std::uint64_t iova, std::uint64_t size, Prot prot, Errno error) override;
  [[nodiscard]] Status read(std::uint64_t iova, std::span<std::byte> data) override;
  [[nodiscard]] Status write(std::uint64_t iova, std::span<const std::byte> data) override;
  [[nodiscard]] const std::atomic<std::uint64_t>& generation() const override;

 private:
  template <typename Span, typename Copy>
  Status copy(std::uint64_t iova, Span data, Prot prot, Copy&& copy_piece);
  // Reports and returns `error`.
  std::unexpected<Errno> refuse(std::uint64_t iova, std::uint64_t size, Prot prot, int error);

  const std::shared_ptr<Iommu> keep_;
  Type1& type1_;
  const std::shared_ptr<Domain> domain_;
  const std::shared_ptr<Unit> unit_;
  const std::string device_;
};

}  // namespace uvfio::iommu::type1
