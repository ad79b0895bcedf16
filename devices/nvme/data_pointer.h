// Where a command's data is: PRPs and SGLs (sections 4.3 and 4.4).
#pragma once

#include <cstdint>
#include <vector>

#include "devices/nvme/protocol.h"
#include "uvfio/dma.h"

namespace uvfio::nvme {

struct Segment {
  std::uint64_t iova = 0;
  std::uint64_t size = 0;  // bytes
};

// Appends to `segments` where the `size` bytes (not 0) of `command` are; neighbours are joined.
// Lists are read through `dma`; `page_size` is CC.MPS.
[[nodiscard]] CommandStatus find_data(vfio::Dma& dma, const Command& command, std::uint64_t size,
                                      std::uint64_t page_size, std::vector<Segment>& segments);

}  // namespace uvfio::nvme
