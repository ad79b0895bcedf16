#include "iommu/type1/pin_table.h"

#include <algorithm>

namespace uvfio::iommu::type1 {

std::uint64_t PinTable::pin(std::uint64_t first, std::uint64_t count) {
  std::uint64_t fresh = 0;
  while (count != 0) {
    auto& chunk = chunks_[first / kChunkPages];
    if (!chunk) chunk = std::make_unique<Chunk>();
    const std::uint64_t offset = first % kChunkPages;
    const std::uint64_t run = std::min(count, kChunkPages - offset);
    std::uint32_t* references = chunk->references.data() + offset;
    std::uint32_t chunk_fresh = 0;
    for (std::uint64_t i = 0; i < run; ++i) {  // no branch: the compiler makes vectors of it
      chunk_fresh += references[i] == 0 ? 1 : 0;
      ++references[i];
    }
    chunk->pinned += chunk_fresh;
    fresh += chunk_fresh;
    first += run;
    count -= run;
  }
  pinned_ += fresh;
  return fresh;
}

std::uint64_t PinTable::unpin(std::uint64_t first, std::uint64_t count) {
  std::uint64_t released = 0;
  while (count != 0) {
    auto& chunk = chunks_[first / kChunkPages];
    const std::uint64_t offset = first % kChunkPages;
    const std::uint64_t run = std::min(count, kChunkPages - offset);
    if (chunk) {
      std::uint32_t* references = chunk->references.data() + offset;
      std::uint32_t chunk_released = 0;
      for (std::uint64_t i = 0; i < run; ++i) {
        chunk_released += references[i] == 1 ? 1 : 0;
        references[i] -= references[i] != 0 ? 1 : 0;
      }
      chunk->pinned -= chunk_released;
      if (chunk->pinned == 0) chunk.reset();
      released += chunk_released;
    }
    first += run;
    count -= run;
  }
  pinned_ -= released;
  return released;
}

std::uint64_t PinTable::memory_bytes() const {
  const auto used =
      std::ranges::count_if(chunks_, [](const auto& chunk) { return chunk != nullptr; });
  return chunks_.capacity() * sizeof(chunks_[0]) + static_cast<std::uint64_t>(used) * sizeof(Chunk);
}

}  // namespace uvfio::iommu::type1
