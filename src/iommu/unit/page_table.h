// An IOMMU's multi-level page table: IOVA to memory.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "uvfio/dma.h"
#include "uvfio/error.h"

namespace uvfio::iommu {

// Where a range of IOVAs leads. The memory is this process' own at `address`, or, with `copy`, the
// client's at `address`: then it is reached by copy only. Page aligned.
struct Target {
  std::uint64_t address = 0;
  bool copy = false;
};

// A radix tree of tables with 512 entries, whose leaves are pages of 4 KiB, 2 MiB or 1 GiB. Unlike
// hardware's, an output address need not be aligned to its page. One writer at a time; readers walk
// inside an RCU section, without a lock.
class PageTable {
 public:
  static constexpr unsigned kIndexBits = 9;
  static constexpr unsigned kEntries = 1u << kIndexBits;

  // For IOVAs up to `last`. `page_sizes`: bitmap of the leaves it may use; 4 KiB is always among
  // them. `memory_limit`: bytes of tables; 0: no limit.
  PageTable(std::uint64_t page_sizes, std::uint64_t last, std::uint64_t memory_limit);
  ~PageTable();
  PageTable(const PageTable&) = delete;

  struct Leaf {
    std::uint64_t first = 1;  // first and last IOVA of the page; empty: there is none
    std::uint64_t last = 0;
    Target target;  // of `first`
    vfio::Prot prot = vfio::Prot::none;
    [[nodiscard]] bool present() const { return first <= last; }
  };
  // For readers: the page of `iova`.
  [[nodiscard]] Leaf walk(std::uint64_t iova) const;

  // For the writer. Maps all of [iova, iova + size) or nothing: ERANGE beyond `last`, EADDRINUSE
  // where something is mapped, ENOMEM. Everything in multiples of 4 KiB, `size` not 0, no
  // wrap-around.
  [[nodiscard]] Status map(std::uint64_t iova, Target target, std::uint64_t size, vfio::Prot prot,
                           std::uint64_t largest_page);
  // Takes out what is mapped in [iova, last]; a page that the range cuts goes as a whole. Bytes
  // unmapped. Readers may still see it, and use its tables, until a grace period is over: then call
  // reclaim().
  std::uint64_t unmap(std::uint64_t iova, std::uint64_t last);
  void reclaim();

  // Of heap in tables.
  [[nodiscard]] std::uint64_t memory_bytes() const { return tables_ * sizeof(Table); }
  // Leaves by level: 4 KiB, 2 MiB, 1 GiB.
  [[nodiscard]] const std::array<std::uint64_t, 3>& leaves() const { return leaves_; }

 private:
  struct alignas(64) Table {
    std::array<std::atomic<std::uint64_t>, kEntries> entries{};
    unsigned used = 0;  // the writer's count of entries that are not 0
  };

  [[nodiscard]] unsigned leaf_level(std::uint64_t iova, std::uint64_t size,
                                    std::uint64_t largest_page) const;
  [[nodiscard]] Table* new_table();
  [[nodiscard]] Result<Table*> descend(std::uint64_t iova, unsigned level);
  std::uint64_t clear(Table& table, unsigned level, std::uint64_t first, std::uint64_t last);
  void prune(Table& table, unsigned level, std::uint64_t iova);
  void free_below(Table& table);

  const std::uint64_t page_sizes_;
  const std::uint64_t last_;
  const std::uint64_t memory_limit_;
  const unsigned top_level_;
  Table* root_;
  std::uint64_t tables_ = 0;  // those that wait for reclaim() included
  std::array<std::uint64_t, 3> leaves_{};
  std::vector<Table*> retired_;
};

}  // namespace uvfio::iommu
