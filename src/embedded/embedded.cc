#include "uvfio/embedded.h"

#include <linux/vfio.h>
#include <unistd.h>

#include "iommu/type1/type1.h"
#include "memory/process.h"

namespace uvfio::embedded {
namespace {

// EINVAL: no IOMMU is set; ENOTTY: it is not type1.
Result<std::shared_ptr<iommu::type1::Type1>> type1_of(vfio::Container& container) {
  auto iommu = container.iommu();
  if (!iommu) return fail(EINVAL);
  auto type1 = std::dynamic_pointer_cast<iommu::type1::Type1>(std::move(iommu));
  if (!type1) return fail(ENOTTY);
  return type1;
}

}  // namespace

Status map_dma(vfio::Container& container, std::uint64_t iova, void* memory, std::size_t size,
               vfio::Prot prot) {
  const auto type1 = type1_of(container);
  if (!type1) return std::unexpected(type1.error());
  std::uint32_t flags = 0;
  if (vfio::allows(prot, vfio::Prot::read)) flags |= VFIO_DMA_MAP_FLAG_READ;
  if (vfio::allows(prot, vfio::Prot::write)) flags |= VFIO_DMA_MAP_FLAG_WRITE;
  return (*type1)->map(
      {.iova = iova,
       .vaddr = reinterpret_cast<std::uint64_t>(memory),
       .size = size,
       .flags = flags},
      {.space = memory::this_process(), .lock_cap = memory::thread_can_lock_memory(gettid())});
}

Result<std::uint64_t> unmap_dma(vfio::Container& container, std::uint64_t iova,
                                std::uint64_t size) {
  const auto type1 = type1_of(container);
  if (!type1) return std::unexpected(type1.error());
  return (*type1)->unmap({.iova = iova, .size = size});
}

}  // namespace uvfio::embedded
