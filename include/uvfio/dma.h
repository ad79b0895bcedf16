// How a device reaches its client's memory: pins, and DMA through a small translation cache.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "uvfio/error.h"
#include "uvfio/memory.h"

namespace uvfio::iommu {
class DmaPath;
class Iommu;
class Users;
struct PinBuilder;
}  // namespace uvfio::iommu

namespace uvfio::vfio {

class Device;

// IOMMU_READ and IOMMU_WRITE: what a device may do with memory.
enum class Prot : std::uint8_t { none = 0, read = 1, write = 2, read_write = 3 };
[[nodiscard]] constexpr Prot operator|(Prot a, Prot b) {
  return static_cast<Prot>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
// Does `have` include all of `want`?
[[nodiscard]] constexpr bool allows(Prot have, Prot want) {
  return (static_cast<unsigned>(want) & ~static_cast<unsigned>(have)) == 0;
}

// A run of pinned memory, contiguous in IOVA and (if `host` is set) in this process.
struct PinnedSegment {
  std::byte* host = nullptr;  // nullptr: private memory of the client, reached by copy only
  std::uint64_t vaddr = 0;    // the same memory in the client
  std::uint64_t size = 0;     // bytes
};

// Pages that a device holds (vfio_pin_pages). The pin is this object: dropping it unpins. Movable,
// one thread at a time; drop it in DmaClient::dma_unmap when asked to.
class PinnedPages {
 public:
  PinnedPages() = default;
  PinnedPages(PinnedPages&& other) noexcept { *this = std::move(other); }
  PinnedPages& operator=(PinnedPages&& other) noexcept;
  ~PinnedPages() { reset(); }
  void reset();

  [[nodiscard]] std::uint64_t iova() const { return iova_; }
  [[nodiscard]] std::uint64_t size() const { return pages_ * memory::kPageSize; }
  [[nodiscard]] std::span<const PinnedSegment> segments() const {
    if (!more_.empty()) return more_;
    return {&first_, first_.size != 0 ? 1u : 0u};
  }
  // True: every segment has a host pointer.
  [[nodiscard]] bool direct() const;

  // Access by offset, whatever kind of memory it is. EINVAL: beyond the pin. ESRCH, EFAULT: private
  // memory that the client has taken away.
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> data) const;
  [[nodiscard]] Status write(std::uint64_t offset, std::span<const std::byte> data) const;

 private:
  friend class Device;
  friend struct iommu::PinBuilder;

  struct Owner {  // keeps alive what the segments point to
    std::shared_ptr<const void> view;
    std::shared_ptr<memory::AddressSpace> space;
  };
  [[nodiscard]] const Owner& owner(std::size_t index) const {
    return more_.empty() ? first_owner_ : more_owners_[index];
  }

  std::shared_ptr<iommu::Iommu> iommu_;
  std::uint64_t iova_ = 0;
  std::uint64_t pages_ = 0;
  PinnedSegment first_;
  Owner first_owner_;
  std::vector<PinnedSegment> more_;  // all segments, when there are several
  std::vector<Owner> more_owners_;
};

// What one mapping says about an IOVA.
struct Translation {
  std::uint64_t first = 1;  // first and last IOVA that it holds for; empty by default
  std::uint64_t last = 0;
  std::byte* host = nullptr;  // memory of `first`; nullptr: copy only
  Prot prot = Prot::none;     // what it may be cached for
};

// A device's DMA engine: reads, writes and translates IOVAs without taking a lock, through an
// IOTLB. Each object belongs to one thread at a time; a device with several queues makes one for
// each (Device::dma). Valid until close_device returns.
class Dma {
 public:
  Dma() = default;
  Dma(Dma&&) = default;
  Dma& operator=(Dma&&) = default;
  ~Dma();

  // Copies, across mappings if need be. EACCES: the device's DMA is switched off (Device::dma).
  // EINVAL: no mapping. EPERM: the mapping does not allow it
  // (of a mediated device both directions need READ, as vfio_dma_rw). EFAULT: the client's memory
  // is not there.
  [[nodiscard]] Status read(std::uint64_t iova, std::span<std::byte> data);
  [[nodiscard]] Status write(std::uint64_t iova, std::span<const std::byte> data);

  // Client memory that may be touched while this object lives. Keep it short: an unmap by the
  // client waits for it. Must be dropped by the thread that got it; may be nested.
  class Window {
   public:
    Window(Window&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    Window& operator=(Window&&) = delete;
    ~Window();
    [[nodiscard]] std::byte* data() const { return data_; }

   private:
    friend class Dma;
    explicit Window(std::byte* data) : data_(data) {}
    std::byte* data_;
  };
  // [iova, iova + size) within one mapping. Errors as read, and EOPNOTSUPP: private memory, or
  // several pieces of it, where read and write work.
  [[nodiscard]] Result<Window> translate(std::uint64_t iova, std::uint64_t size, Prot prot);

  // As Window, for transfers that end in another thread, such as asynchronous I/O: any thread may
  // drop it, also after the Dma object has gone. An unmap by the client waits for it.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          users_(std::exchange(other.users_, nullptr)) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(data_, other.data_);
      std::swap(users_, other.users_);
      return *this;
    }
    ~Hold();
    [[nodiscard]] std::byte* data() const { return data_; }

   private:
    friend class Dma;
    std::byte* data_ = nullptr;
    iommu::Users* users_ = nullptr;
  };
  // Errors as translate.
  [[nodiscard]] Result<Hold> hold(std::uint64_t iova, std::uint64_t size, Prot prot);

 private:
  friend class Device;
  Dma(std::shared_ptr<iommu::DmaPath> path, const std::atomic<bool>* enabled);

  static constexpr std::size_t kIotlbEntries = 64;  // as many as bits of iotlb_valid_

  const Translation* cached(std::uint64_t iova, std::uint64_t size, Prot prot);
  Result<std::byte*> lookup(std::uint64_t iova, std::uint64_t size, Prot prot);
  Result<std::byte*> lookup_anew(std::uint64_t iova, std::uint64_t size, Prot prot);
  Result<Window> translate_anew(std::uint64_t iova, std::uint64_t size, Prot prot);

  [[nodiscard]] bool enabled() const {
    return enabled_ == nullptr || enabled_->load(std::memory_order_acquire);
  }

  std::shared_ptr<iommu::DmaPath> path_;
  Prot prot_of_write_ = Prot::read_write;
  const std::atomic<bool>* enabled_ = nullptr;
  const std::atomic<std::uint64_t>* generation_ = nullptr;
  // The IOTLB: the last translation found, which may span many pages, and a direct-mapped array by
  // page. It holds for one generation of the container.
  std::uint64_t iotlb_generation_ = 0;
  std::uint64_t iotlb_valid_ = 0;
  Translation last_found_;
  std::array<Translation, kIotlbEntries> iotlb_;
};

}  // namespace uvfio::vfio
