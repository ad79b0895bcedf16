// The embedded door's DMA calls: MAP_DMA and UNMAP_DMA for memory of this process.
#pragma once

#include <cstddef>
#include <cstdint>

#include "uvfio/dma.h"
#include "uvfio/error.h"
#include "uvfio/vfio.h"

namespace uvfio::embedded {

// VFIO_IOMMU_MAP_DMA on a type1 container; errors as the ioctl's. `memory` must stay until it is
// unmapped; devices reach it without a copy.
[[nodiscard]] Status map_dma(vfio::Container& container, std::uint64_t iova, void* memory,
                             std::size_t size, vfio::Prot prot = vfio::Prot::read_write);

// VFIO_IOMMU_UNMAP_DMA: bytes unmapped; errors as the ioctl's.
[[nodiscard]] Result<std::uint64_t> unmap_dma(vfio::Container& container, std::uint64_t iova,
                                              std::uint64_t size);

}  // namespace uvfio::embedded
