// Which pages of one mapping are pinned, and how often (the kernel's tree of vfio_pfn).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>

namespace uvfio::iommu::type1 {

// Dense reference counts, made by the chunk when the first page of one is pinned: 4 bytes a page
// where the kernel has a 64-byte node. What is not pinned costs nothing, however large the mapping.
// Pages are numbered from the start of the mapping. Not thread-safe.
class PinTable {
 public:
  // One more reference to each of `count` pages. Returns how many had none before. Throws
  // std::bad_alloc, and then nothing has changed.
  std::uint64_t pin(std::uint64_t first, std::uint64_t count);
  // One reference less; pages that have none are passed over. Returns how many have none left now.
  std::uint64_t unpin(std::uint64_t first, std::uint64_t count);

  // Pages with at least one reference.
  [[nodiscard]] std::uint64_t pinned() const { return pinned_; }
  // Calls visit(first, count) for every run of pages in [first, first + count) that have exactly
  // `references`, ascending.
  template <typename Visit>
  void for_each_run_with(std::uint32_t references, std::uint64_t first, std::uint64_t count,
                         Visit&& visit) const;
  // Calls visit(first, count) for every run of pinned pages, ascending.
  template <typename Visit>
  void for_each_run(Visit&& visit) const;
  // Bytes of heap that this table holds.
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  static constexpr std::uint64_t kChunkPages = 512;
  struct Chunk {
    std::array<std::uint32_t, kChunkPages> references{};
    std::uint32_t pinned = 0;  // entries that are not 0
  };

  using Chunks = std::map<std::uint64_t, std::unique_ptr<Chunk>>;  // by page / kChunkPages
  static Chunks::node_type& spare();
  Chunks::iterator add(Chunks::iterator next, std::uint64_t index);
  Chunks::iterator drop(Chunks::iterator empty);

  Chunks chunks_;
  std::uint64_t pinned_ = 0;
};

template <typename Visit>
void PinTable::for_each_run_with(std::uint32_t references, std::uint64_t first, std::uint64_t count,
                                 Visit&& visit) const {
  std::uint64_t length = 0;
  const Chunk* chunk = nullptr;
  for (std::uint64_t page = first; page < first + count; ++page) {
    if (page == first || page % kChunkPages == 0) {
      const auto found = chunks_.find(page / kChunkPages);
      chunk = found == chunks_.end() ? nullptr : found->second.get();
    }
    const std::uint32_t has = chunk == nullptr ? 0 : chunk->references[page % kChunkPages];
    if (has == references) {
      ++length;
    } else if (length != 0) {
      visit(page - length, length);
      length = 0;
    }
  }
  if (length != 0) visit(first + count - length, length);
}

template <typename Visit>
void PinTable::for_each_run(Visit&& visit) const {
  std::uint64_t start = 0;
  std::uint64_t length = 0;
  const auto flush = [&] {
    if (length != 0) visit(start, length);
    length = 0;
  };
  for (const auto& [index, chunk] : chunks_) {
    if (start + length != index * kChunkPages) flush();
    for (std::uint64_t page = 0; page < kChunkPages; ++page) {
      if (chunk->references[page] == 0) {
        flush();
      } else if (length++ == 0) {
        start = index * kChunkPages + page;
      }
    }
  }
  flush();
}

}  // namespace uvfio::iommu::type1
