// Moves data for descriptors, through the device's DMA handles.
#pragma once

#include <cstdint>
#include <vector>

#include "uvfio/dma.h"

namespace uvfio::ioat {

// What becomes of a data access that the IOMMU or the client's memory refuses.
enum class Faults : std::uint8_t {
  drop,    // as on hosts that hide it from devices: reads are ones, writes are lost
  report,  // the channel halts with CHANERR
};

enum class Moved : std::uint8_t {
  done,
  read_fault,
  write_fault,
  not_master,  // bus mastering is off; nothing is wrong, but nothing moves
};

// One for each channel: a translation cache of its own for each stream of addresses.
class Transfer {
 public:
  Transfer(vfio::Dma source, vfio::Dma destination, Faults faults)
      : source_(std::move(source)), destination_(std::move(destination)), faults_(faults) {}

  // Up to kMaxTransfer bytes. Overlap is as memmove.
  [[nodiscard]] Moved copy(std::uint64_t source, std::uint64_t destination, std::uint64_t size);
  // Repeats the pattern, first byte first.
  [[nodiscard]] Moved fill(std::uint64_t pattern, std::uint64_t destination, std::uint64_t size);

 private:
  Moved read(std::uint64_t iova, std::span<std::byte> data);
  Moved write(std::uint64_t iova, std::span<const std::byte> data);
  // After a fault. `nothing`: it is all that there is in one page, which is not to be tried again,
  // as each try is recorded.
  Moved read_what_is_there(std::uint64_t iova, std::span<std::byte> data, bool nothing);
  Moved write_what_can_be(std::uint64_t iova, std::span<const std::byte> data, bool nothing);

  vfio::Dma source_;
  vfio::Dma destination_;
  Faults faults_;
  std::vector<std::byte> bounce_;  // for memory that has no address here
};

}  // namespace uvfio::ioat
