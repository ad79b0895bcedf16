// An address space for tests: memory that the test owns, with a choice of how it is reached, a
// limit, and a death.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "uvfio/memory.h"

namespace uvfio::testing {

// Client memory starts at a page.
template <typename T>
struct PageAllocator {
  using value_type = T;
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{memory::kPageSize}));
  }
  void deallocate(T* memory, std::size_t) {
    ::operator delete (memory, std::align_val_t{memory::kPageSize});
  }
  bool operator==(const PageAllocator&) const = default;
};

class FakeAddressSpace final : public memory::AddressSpace {
 public:
  enum class Kind { shared, private_memory };

  // Memory of `size` bytes at `base`.
  FakeAddressSpace(std::uint64_t base, std::uint64_t size, Kind kind = Kind::shared)
      : memory(size), base_(base), kind_(kind) {}

  bool alive() const override { return !dead; }
  std::string name() const override { return "a test"; }
  Status read(std::uint64_t vaddr, std::span<std::byte> data) override {
    if (auto checked = check(vaddr, data.size(), false); !checked) return checked;
    std::ranges::copy(std::span(memory).subspan(vaddr - base_, data.size()), data.begin());
    return {};
  }
  Status write(std::uint64_t vaddr, std::span<const std::byte> data) override {
    if (auto checked = check(vaddr, data.size(), true); !checked) return checked;
    std::byte* const to = memory.data() + (vaddr - base_);
    if (data.size() == sizeof(std::uint32_t) && vaddr % sizeof(std::uint32_t) == 0) {
      // A word comes at once, as from the kernel: somebody may be waiting for it.
      std::uint32_t word = 0;
      std::memcpy(&word, data.data(), sizeof word);
      std::atomic_ref(*reinterpret_cast<std::uint32_t*>(to)).store(word, std::memory_order_release);
      return {};
    }
    std::ranges::copy(data, to);
    return {};
  }
  Status check(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    ++checks;
    if (dead) return fail(ESRCH);
    if (write && read_only) return fail(EFAULT);
    if (vaddr < base_ || size > memory.size() || vaddr - base_ > memory.size() - size)
      return fail(EFAULT);
    return {};
  }
  Result<memory::View> view(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    ++views;
    if (auto checked = check(vaddr, size, write); !checked) return std::unexpected(checked.error());
    if (kind_ == Kind::private_memory) return fail(EOPNOTSUPP);
    return memory::View{.host = memory.data() + (vaddr - base_), .owner = nullptr};
  }
  std::uint64_t lock_limit() const override { return limit; }

  std::vector<std::byte, PageAllocator<std::byte>> memory;
  std::atomic<bool> dead = false;
  bool read_only = false;
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();  // pages
  std::atomic<int> views = 0;
  std::atomic<int> checks = 0;

 private:
  const std::uint64_t base_;
  const Kind kind_;
};

}  // namespace uvfio::testing
