#include "iommu/type1/pin_table.h"

#include <algorithm>

namespace uvfio::iommu::type1 {

// A device that pins a page, uses it, and unpins it empties a chunk each time. So each thread keeps
// the last one, whosever it was: an empty chunk is as good as a new one.
PinTable::Chunks::node_type& PinTable::spare() {
  static thread_local Chunks::node_type chunk;
  return chunk;
}

PinTable::Chunks::iterator PinTable::add(Chunks::iterator next, std::uint64_t index) {
  Chunks::node_type& kept = spare();
  if (!kept) return chunks_.emplace_hint(next, index, std::make_unique<Chunk>());
  kept.key() = index;
  return chunks_.insert(next, std::move(kept));
}

PinTable::Chunks::iterator PinTable::drop(Chunks::iterator empty) {
  const auto next = std::next(empty);
  spare() = chunks_.extract(empty);
  return next;
}

std::uint64_t PinTable::pin(std::uint64_t first, std::uint64_t count) {
  // All chunks before the first count: then nothing can fail any more.
  const std::uint64_t last = (first + count - 1) / kChunkPages;
  auto at = chunks_.lower_bound(first / kChunkPages);
  auto begin = at;
  const auto missing = [&](std::uint64_t index) {
    return at == chunks_.end() || at->first != index;
  };
  for (std::uint64_t index = first / kChunkPages; index <= last; ++index, ++at) {
    if (missing(index)) at = add(at, index);
    if (index == first / kChunkPages) begin = at;
  }
  std::uint64_t fresh = 0;
  for (at = begin; count != 0; ++at) {
    Chunk& chunk = *at->second;
    const std::uint64_t offset = first % kChunkPages;
    const std::uint64_t run = std::min(count, kChunkPages - offset);
    std::uint32_t* references = chunk.references.data() + offset;
    std::uint32_t chunk_fresh = 0;
    for (std::uint64_t i = 0; i < run; ++i) {  // no branch: the compiler makes vectors of it
      chunk_fresh += references[i] == 0 ? 1 : 0;
      ++references[i];
    }
    chunk.pinned += chunk_fresh;
    fresh += chunk_fresh;
    first += run;
    count -= run;
  }
  pinned_ += fresh;
  return fresh;
}

std::uint64_t PinTable::unpin(std::uint64_t first, std::uint64_t count) {
  std::uint64_t released = 0;
  const std::uint64_t end = first + count;
  for (auto at = chunks_.lower_bound(first / kChunkPages);
       at != chunks_.end() && at->first * kChunkPages < end;) {
    Chunk& chunk = *at->second;
    const std::uint64_t start = at->first * kChunkPages;
    const std::uint64_t from = std::max(first, start) - start;
    const std::uint64_t to = std::min(end - start, kChunkPages);
    std::uint32_t chunk_released = 0;
    for (std::uint64_t i = from; i < to; ++i) {
      chunk_released += chunk.references[i] == 1 ? 1 : 0;
      chunk.references[i] -= chunk.references[i] != 0 ? 1 : 0;
    }
    chunk.pinned -= chunk_released;
    released += chunk_released;
    at = chunk.pinned == 0 ? drop(at) : std::next(at);
  }
  pinned_ -= released;
  return released;
}

std::uint64_t PinTable::memory_bytes() const {
  constexpr std::uint64_t kNode = 6 * sizeof(void*);  // of the map, about
  return chunks_.size() * (sizeof(Chunk) + kNode);
}

}  // namespace uvfio::iommu::type1
