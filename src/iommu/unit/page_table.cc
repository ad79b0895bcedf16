#include "iommu/unit/page_table.h"

#include <algorithm>
#include <bit>
#include <new>

namespace uvfio::iommu {
namespace {

using memory::kPageShift;
using memory::kPageSize;

// An entry is 0, the address of a table, or a leaf: an address with these bits below it.
constexpr std::uint64_t kProtBits = 3;  // vfio::Prot
constexpr std::uint64_t kLeaf = 1 << 2;
constexpr std::uint64_t kCopy = 1 << 3;
constexpr std::uint64_t kFlags = kPageSize - 1;

constexpr unsigned kLeafLevels = 3;

constexpr unsigned shift_of(unsigned level) { return kPageShift + PageTable::kIndexBits * level; }

// Bytes that one entry of a level stands for; level 5 has entries of 2^57.
constexpr std::uint64_t span_of(unsigned level) { return std::uint64_t{1} << shift_of(level); }

constexpr unsigned index_of(std::uint64_t iova, unsigned level) {
  return static_cast<unsigned>(iova >> shift_of(level)) & (PageTable::kEntries - 1);
}

constexpr unsigned levels_for(std::uint64_t last) {
  const unsigned bits = std::max<unsigned>(std::bit_width(last), kPageShift + 1);
  return (bits - kPageShift + PageTable::kIndexBits - 1) / PageTable::kIndexBits;
}

}  // namespace

PageTable::PageTable(std::uint64_t page_sizes, std::uint64_t last, std::uint64_t memory_limit)
    : page_sizes_(page_sizes | kPageSize),
      last_(last),
      memory_limit_(memory_limit),
      top_level_(levels_for(last) - 1),
      root_(new Table),
      tables_(1) {}

PageTable::~PageTable() {
  reclaim();
  free_below(*root_);
  delete root_;
}

void PageTable::free_below(Table& table) {
  for (const auto& entry : table.entries) {
    const std::uint64_t value = entry.load(std::memory_order_relaxed);
    if (value == 0 || (value & kLeaf) != 0) continue;
    auto* child = reinterpret_cast<Table*>(value);
    free_below(*child);
    delete child;
  }
}

PageTable::Leaf PageTable::walk(std::uint64_t iova) const {
  if (iova > last_) return {};
  const Table* table = root_;
  for (unsigned level = top_level_;; --level) {
    const std::uint64_t entry =
        table->entries[index_of(iova, level)].load(std::memory_order_acquire);
    if (entry == 0) return {};
    if ((entry & kLeaf) != 0) {
      const std::uint64_t first = iova & ~(span_of(level) - 1);
      return {.first = first,
              .last = first + (span_of(level) - 1),
              .target = {.address = entry & ~kFlags, .copy = (entry & kCopy) != 0},
              .prot = static_cast<vfio::Prot>(entry & kProtBits)};
    }
    table = reinterpret_cast<const Table*>(entry);
  }
}

unsigned PageTable::leaf_level(std::uint64_t iova, std::uint64_t size,
                               std::uint64_t largest_page) const {
  for (unsigned level = std::min(kLeafLevels - 1, top_level_); level > 0; --level) {
    const std::uint64_t page = span_of(level);
    if (page <= largest_page && (page_sizes_ & page) != 0 && iova % page == 0 && size >= page) {
      return level;
    }
  }
  return 0;
}

PageTable::Table* PageTable::new_table() {
  if (memory_limit_ != 0 && (tables_ + 1) * sizeof(Table) > memory_limit_) return nullptr;
  auto* table = new (std::nothrow) Table;
  if (table != nullptr) ++tables_;
  return table;
}

// The table of `level` that has the entry for `iova`; makes what is missing on the way.
Result<PageTable::Table*> PageTable::descend(std::uint64_t iova, unsigned level) {
  Table* table = root_;
  for (unsigned at = top_level_; at > level; --at) {
    auto& entry = table->entries[index_of(iova, at)];
    const std::uint64_t value = entry.load(std::memory_order_relaxed);
    if ((value & kLeaf) != 0) return fail(EADDRINUSE);
    auto* child = reinterpret_cast<Table*>(value);
    if (child == nullptr) {
      child = new_table();
      if (child == nullptr) return fail(ENOMEM);
      entry.store(reinterpret_cast<std::uint64_t>(child), std::memory_order_release);
      ++table->used;
    }
    table = child;
  }
  return table;
}

Status PageTable::map(std::uint64_t iova, Target target, std::uint64_t size, vfio::Prot prot,
                      std::uint64_t largest_page) {
  if (iova > last_ || size - 1 > last_ - iova) return fail(ERANGE);
  const std::uint64_t flags = static_cast<std::uint64_t>(prot) | kLeaf | (target.copy ? kCopy : 0);
  for (std::uint64_t done = 0; done < size;) {
    const std::uint64_t at = iova + done;
    const unsigned level = leaf_level(at, size - done, largest_page);
    const auto table = descend(at, level);
    Status mapped;
    unsigned count = 0;
    if (table) {
      const unsigned index = index_of(at, level);
      const auto wanted = static_cast<unsigned>(
          std::min<std::uint64_t>(kEntries - index, (size - done) >> shift_of(level)));
      for (; count < wanted; ++count) {
        auto& entry = (*table)->entries[index + count];
        if (entry.load(std::memory_order_relaxed) != 0) {
          mapped = fail(EADDRINUSE);
          break;
        }
        const std::uint64_t offset = done + (std::uint64_t{count} << shift_of(level));
        entry.store((target.address + offset) | flags, std::memory_order_release);
      }
      (*table)->used += count;
      leaves_[level] += count;
    } else {
      mapped = std::unexpected(table.error());
    }
    done += std::uint64_t{count} << shift_of(level);
    if (!mapped) {
      if (done != 0) unmap(iova, iova + (done - 1));
      prune(*root_, top_level_, at);  // tables that were made for nothing
      return mapped;
    }
  }
  return {};
}

std::uint64_t PageTable::unmap(std::uint64_t iova, std::uint64_t last) {
  if (iova > last_) return 0;
  return clear(*root_, top_level_, iova, std::min(last, last_));
}

std::uint64_t PageTable::clear(Table& table, unsigned level, std::uint64_t first,
                               std::uint64_t last) {
  std::uint64_t unmapped = 0;
  const unsigned end = index_of(last, level);
  const std::uint64_t span = span_of(level);
  for (unsigned index = index_of(first, level); index <= end; ++index) {
    auto& entry = table.entries[index];
    const std::uint64_t value = entry.load(std::memory_order_relaxed);
    if (value != 0 && (value & kLeaf) != 0) {
      entry.store(0, std::memory_order_release);
      --table.used;
      --leaves_[level];
      unmapped += span;
    } else if (value != 0) {
      auto* child = reinterpret_cast<Table*>(value);
      const std::uint64_t child_last = first | (span - 1);
      unmapped += clear(*child, level - 1, first, std::min(last, child_last));
      if (child->used == 0) {
        entry.store(0, std::memory_order_release);
        --table.used;
        retired_.push_back(child);
      }
    }
    first = (first | (span - 1)) + 1;
  }
  return unmapped;
}

// Takes out empty tables on the way to `iova`.
void PageTable::prune(Table& table, unsigned level, std::uint64_t iova) {
  auto& entry = table.entries[index_of(iova, level)];
  const std::uint64_t value = entry.load(std::memory_order_relaxed);
  if (value == 0 || (value & kLeaf) != 0) return;
  auto* child = reinterpret_cast<Table*>(value);
  prune(*child, level - 1, iova);
  if (child->used != 0) return;
  entry.store(0, std::memory_order_release);
  --table.used;
  retired_.push_back(child);
}

void PageTable::reclaim() {
  for (Table* table : retired_) delete table;
  tables_ -= retired_.size();
  retired_.clear();
}

}  // namespace uvfio::iommu
