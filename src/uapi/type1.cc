#include <linux/vfio.h>

#include <bit>
#include <cstring>
#include <vector>

#include "uapi/capability_chain.h"
#include "uapi/handlers.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {
namespace {

using iommu::type1::DirtyBitmap;
using iommu::type1::Type1;

class CallerBitmap final : public iommu::type1::UserBitmap {
 public:
  CallerBitmap(Caller& caller, std::uint64_t user) : caller_(caller), user_(user) {}
  Result<std::uint64_t> read(std::uint64_t word) override {
    std::uint64_t bits = 0;
    if (auto copied = copy_struct_in(caller_, user_ + word * sizeof bits, bits); !copied) {
      return std::unexpected(copied.error());
    }
    return bits;
  }
  Status write(std::uint64_t word, std::span<const std::uint64_t> words) override {
    return caller_.copy_out(user_ + word * sizeof(std::uint64_t), std::as_bytes(words));
  }

 private:
  Caller& caller_;
  std::uint64_t user_;
};

// Is the client's bitmap a fit one for `size` bytes of IOVA? access_ok and verify_bitmap_size.
Status check_bitmap(const vfio_bitmap& bitmap, std::uint64_t size) {
  if (!is_user_range(reinterpret_cast<std::uint64_t>(bitmap.data), bitmap.size))
    return fail(EINVAL);
  if (bitmap.pgsize == 0) return fail(EINVAL);
  const std::uint64_t pages = size >> std::countr_zero(bitmap.pgsize);
  if (pages == 0 || bitmap.size == 0 || bitmap.size > DirtyBitmap::kMaxBytes) return fail(EINVAL);
  if (bitmap.size / 8 < (pages - 1) / 64 + 1) return fail(EINVAL);
  return {};
}

// VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE after its header: the number of ranges, and the ranges.
std::vector<std::byte> iova_ranges_payload(const iommu::type1::Info& info) {
  using Header = vfio_iommu_type1_info_cap_iova_range;
  constexpr std::size_t kFixed = sizeof(Header) - sizeof(vfio_info_cap_header);
  std::vector<std::byte> payload(kFixed + info.ranges.size() * sizeof(vfio_iova_range));
  const auto count = static_cast<std::uint32_t>(info.ranges.size());
  std::memcpy(payload.data(), &count, sizeof count);
  for (std::size_t i = 0; i < info.ranges.size(); ++i) {
    const vfio_iova_range range{.start = info.ranges[i].first, .end = info.ranges[i].last};
    std::memcpy(payload.data() + kFixed + i * sizeof range, &range, sizeof range);
  }
  return payload;
}

Result<int> get_info(Type1& iommu, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_iommu_type1_info, iova_pgsizes);
  vfio_iommu_type1_info info{};
  if (auto copied = copy_sized_struct_in(caller, arg, info, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  const std::size_t copied = std::min<std::size_t>(info.argsz, sizeof info);
  const auto answer = iommu.info();
  info.flags = VFIO_IOMMU_INFO_PGSIZES;
  info.iova_pgsizes = answer.page_sizes;

  CapabilityChain chain;
  chain.add_struct(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1,
                   vfio_iommu_type1_info_cap_migration{
                       .pgsize_bitmap = answer.page_sizes & (~answer.page_sizes + 1),
                       .max_dirty_bitmap_size = DirtyBitmap::kMaxBytes,
                   });
  chain.add_struct(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1,
                   vfio_iommu_type1_info_dma_avail{.avail = answer.dma_avail});
  if (!answer.ranges.empty())
    chain.add(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, iova_ranges_payload(answer));
  if (auto attached = chain.attach_to(caller, arg, info, VFIO_IOMMU_INFO_CAPS); !attached) {
    return std::unexpected(attached.error());
  }
  return copy_struct_out(caller, arg, info, copied);
}

Result<int> map_dma(Type1& iommu, Caller& caller, std::uint64_t arg) {
  constexpr std::uint32_t kFlags =
      VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR;
  vfio_iommu_type1_dma_map map{};
  if (auto copied = copy_sized_struct_in(caller, arg, map,
                                         UVFIO_OFFSET_OF_END(vfio_iommu_type1_dma_map, size));
      !copied) {
    return std::unexpected(copied.error());
  }
  if ((map.flags & ~kFlags) != 0) return fail(EINVAL);
  auto space = caller.address_space();
  if (!space) return std::unexpected(space.error());
  return done(
      iommu.map({.iova = map.iova, .vaddr = map.vaddr, .size = map.size, .flags = map.flags},
                {.space = std::move(*space), .lock_cap = caller.can_lock_memory()}));
}

Result<int> unmap_dma(Type1& iommu, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_iommu_type1_dma_unmap, size);
  constexpr std::uint32_t kGetBitmap = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  constexpr std::uint32_t kNotWithBitmap = VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR;
  vfio_iommu_type1_dma_unmap unmap{};
  if (auto copied = copy_sized_struct_in(caller, arg, unmap, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  if ((unmap.flags & ~(kGetBitmap | kNotWithBitmap)) != 0) return fail(EINVAL);

  vfio_bitmap bitmap{};
  if ((unmap.flags & kGetBitmap) != 0) {
    if ((unmap.flags & kNotWithBitmap) != 0) return fail(EINVAL);
    if (unmap.argsz < kMinSize + sizeof bitmap) return fail(EINVAL);
    if (auto copied = copy_struct_in(caller, arg + kMinSize, bitmap); !copied) {
      return std::unexpected(copied.error());
    }
    if (auto checked = check_bitmap(bitmap, unmap.size); !checked) return done(checked);
  }
  CallerBitmap user(caller, reinterpret_cast<std::uint64_t>(bitmap.data));
  const auto unmapped = iommu.unmap({.iova = unmap.iova,
                                     .size = unmap.size,
                                     .flags = unmap.flags,
                                     .page_size = bitmap.pgsize,
                                     .bitmap = (unmap.flags & kGetBitmap) != 0 ? &user : nullptr});
  if (!unmapped) return std::unexpected(unmapped.error());
  unmap.size = *unmapped;
  return copy_struct_out(caller, arg, unmap, kMinSize);
}

Result<int> dirty_pages(Type1& iommu, Caller& caller, std::uint64_t arg) {
  constexpr std::size_t kMinSize = UVFIO_OFFSET_OF_END(vfio_iommu_type1_dirty_bitmap, flags);
  constexpr std::uint32_t kFlags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START |
                                   VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP |
                                   VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
  if (!iommu.v2()) return fail(EACCES);
  vfio_iommu_type1_dirty_bitmap dirty{};
  if (auto copied = copy_sized_struct_in(caller, arg, dirty, kMinSize); !copied) {
    return std::unexpected(copied.error());
  }
  if ((dirty.flags & ~kFlags) != 0 || !std::has_single_bit(dirty.flags)) return fail(EINVAL);
  if (dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START) return done(iommu.start_dirty_tracking());
  if (dirty.flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP) {
    iommu.stop_dirty_tracking();
    return 0;
  }
  if (dirty.argsz - kMinSize < sizeof(vfio_iommu_type1_dirty_bitmap_get)) return fail(EINVAL);
  vfio_iommu_type1_dirty_bitmap_get range{};
  if (auto copied = copy_struct_in(caller, arg + kMinSize, range); !copied) {
    return std::unexpected(copied.error());
  }
  if (range.size == 0) return fail(EINVAL);
  if (range.iova + (range.size - 1) < range.iova) return fail(EOVERFLOW);
  if (auto checked = check_bitmap(range.bitmap, range.size); !checked) return done(checked);
  CallerBitmap user(caller, reinterpret_cast<std::uint64_t>(range.bitmap.data));
  return done(iommu.report_dirty(range.iova, range.size, range.bitmap.pgsize, user));
}

}  // namespace

Result<int> type1_ioctl(Type1& iommu, Caller& caller, std::uint32_t command, std::uint64_t arg) {
  switch (command) {
    case VFIO_IOMMU_GET_INFO:
      return get_info(iommu, caller, arg);
    case VFIO_IOMMU_MAP_DMA:
      return map_dma(iommu, caller, arg);
    case VFIO_IOMMU_UNMAP_DMA:
      return unmap_dma(iommu, caller, arg);
    case VFIO_IOMMU_DIRTY_PAGES:
      return dirty_pages(iommu, caller, arg);
    default:
      return fail(ENOTTY);
  }
}

}  // namespace uvfio::uapi
