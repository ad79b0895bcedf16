// MAP_DMA, UNMAP_DMA, GET_INFO, and dirty page tracking.

#include <string.h>
#include <sys/ioctl.h>

#include "../../include/uvfio/vfio_compat.h"
#include "world.h"

static unsigned pick_container(struct world* world) { return once_in(&world->chance, 5) ? 1 : 0; }

// The right argsz, most of the time.
static uint32_t pick_argsz(struct world* world, uint32_t right) {
  if (!once_in(&world->chance, 40)) {
    return right;
  }
  const uint32_t sizes[] = {0, 8, right - 1, right + 1, UINT32_MAX};
  return ONE_OF(&world->chance, sizes);
}

static void map(struct world* world) {
  static const uint32_t kOddFlags[] = {
      0, VFIO_DMA_MAP_FLAG_VADDR, VFIO_DMA_MAP_FLAG_VADDR | VFIO_DMA_MAP_FLAG_READ, 8, 1u << 31 | 3,
  };
  struct chance* chance = &world->chance;
  const unsigned c = pick_container(world);
  const struct range range = pick_range(world);
  const struct vfio_iommu_type1_dma_map map = {
      .argsz = pick_argsz(world, sizeof(map)),
      .flags = once_in(chance, 12) ? ONE_OF(chance, kOddFlags) : 1 + below(chance, 3),
      .vaddr = pick_memory(world),
      .iova = range.iova,
      .size = range.size,
  };
  const char* how;
  void* argument = place(world, &map, sizeof(map), &how);
  const long result = ioctl(world->containers[c], VFIO_IOMMU_MAP_DMA, argument);
  NOTE(&world->record,
       with("map c%u%s argsz=%u flags=%#x vaddr=%#llx iova=%#llx size=%#llx", c, how, map.argsz,
            map.flags, map.vaddr, map.iova, map.size),
       result);
  world->ranges[world->next_range++ % kRanges] = range;
}

static void unmap(struct world* world) {
  static const uint32_t kOddFlags[] = {
      VFIO_DMA_UNMAP_FLAG_VADDR,
      VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL,
      8,
      1u << 31,
      VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,  // Without the bitmap.
  };
  struct chance* chance = &world->chance;
  const unsigned c = pick_container(world);
  struct range range = pick_range(world);
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = pick_argsz(world, sizeof(unmap))};
  if (once_in(chance, 20)) {
    unmap.flags = VFIO_DMA_UNMAP_FLAG_ALL;
    if (!once_in(chance, 4)) {
      range = (struct range){0};
    }
  } else if (once_in(chance, 20)) {
    unmap.flags = ONE_OF(chance, kOddFlags);
  } else if (once_in(chance, 10)) {
    range.iova = 0;  // Over many mappings at once.
    range.size = 1ull << (20 + below(chance, 44));
  }
  unmap.iova = range.iova;
  unmap.size = range.size;
  const char* how;
  void* argument = place(world, &unmap, sizeof(unmap), &how);
  const char* arguments = with("unmap c%u%s argsz=%u flags=%#x iova=%#llx size=%#llx", c, how,
                               unmap.argsz, unmap.flags, unmap.iova, unmap.size);
  const long result = ioctl(world->containers[c], VFIO_IOMMU_UNMAP_DMA, argument);
  take_back(world, &unmap, sizeof(unmap));
  note_call(&world->record, arguments, result, "size=%#llx", unmap.size);
}

static void get_info(struct world* world) {
  union {
    struct vfio_iommu_type1_info info;
    char bytes[256];
  } answer;
  static const uint32_t kSizes[] = {0, 15, 16, 20, 24, 60, 107, 108, 200};
  memset(&answer, 0, sizeof(answer));
  answer.info.argsz = once_in(&world->chance, 4) ? ONE_OF(&world->chance, kSizes) : sizeof(answer);
  const unsigned c = pick_container(world);
  const uint32_t argsz = answer.info.argsz;
  const char* how;
  void* argument = place(world, &answer, sizeof(answer), &how);
  const long result = ioctl(world->containers[c], VFIO_IOMMU_GET_INFO, argument);
  take_back(world, &answer, sizeof(answer));
  note_call(&world->record, with("iommu_info c%u%s argsz=%u", c, how, argsz), result,
            "argsz=%u flags=%#x pgsizes=%#llx caps=%u bytes=%#llx", answer.info.argsz,
            answer.info.flags, answer.info.iova_pgsizes, answer.info.cap_offset,
            (unsigned long long)hash_bytes(EMPTY_HASH, answer.bytes, sizeof(answer)));
}

void call_type1(struct world* world) {
  const uint32_t way = below(&world->chance, 16);
  if (way < 9) {
    map(world);
  } else if (way < 15) {
    unmap(world);
  } else {
    get_info(world);
  }
}

// ---- Dirty pages

// No mediated serial card makes pages dirty: what there is to see is which words are written. The
// caller's own bits in a word that a mapping does not fill are another matter (see the
// conformance checks dirty.old_bits): there are none, but in sequences without such words.
static void fill_bitmap(struct world* world) {
  memset(world->bitmap, world->unit == kPage ? 0 : 0xff, kReadable);
}

static struct vfio_bitmap pick_bitmap(struct world* world, uint64_t size) {
  static const uint64_t kOddPages[] = {0, 1, 2048, 8192, 4097, 2 << 20};
  struct chance* chance = &world->chance;
  struct vfio_bitmap bitmap = {
      .pgsize = once_in(chance, 20) ? ONE_OF(chance, kOddPages) : kPage,
      .size = (size / kPage + 63) / 64 * 8,
      .data = (void*)world->bitmap,
  };
  if (once_in(chance, 10)) {
    const uint64_t sizes[] = {0, bitmap.size - 1, bitmap.size + 1, 256 << 20, (256 << 20) + 1};
    bitmap.size = ONE_OF(chance, sizes);
  }
  if (once_in(chance, 20)) {
    const uintptr_t places[] = {0,
                                0x1000,
                                (uintptr_t)world->bitmap + kReadable - 4,
                                (uintptr_t)world->zeros,
                                0xffff888000000000,
                                UINTPTR_MAX};
    bitmap.data = (void*)ONE_OF(chance, places);
  }
  return bitmap;
}

// Where the bitmap is, in a way that does not depend on the machine.
static const char* where(const struct world* world, const struct vfio_bitmap* bitmap) {
  const char* data = (const char*)bitmap->data;
  if (data == world->bitmap) {
    return "good";
  }
  return data == world->zeros ? "read_only" : data > world->bitmap ? "end" : "bad";
}

static unsigned long long written(const struct world* world) {
  return hash_bytes(EMPTY_HASH, world->bitmap, 1024);
}

static void unmap_with_bitmap(struct world* world) {
  struct {
    struct vfio_iommu_type1_dma_unmap unmap;
    struct vfio_bitmap bitmap;
  } call;
  memset(&call, 0, sizeof(call));
  const unsigned c = pick_container(world);
  const struct range range = pick_range(world);
  call.unmap.argsz = pick_argsz(world, sizeof(call));
  call.unmap.flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  if (once_in(&world->chance, 30)) {
    call.unmap.flags |= VFIO_DMA_UNMAP_FLAG_ALL;
  }
  call.unmap.iova = range.iova;
  call.unmap.size = range.size;
  call.bitmap = pick_bitmap(world, range.size);
  fill_bitmap(world);
  const char* how;
  void* argument = place(world, &call, sizeof(call), &how);
  const char* arguments =
      with("unmap_dirty c%u%s argsz=%u flags=%#x iova=%#llx size=%#llx pgsize=%#llx bytes=%#llx %s",
           c, how, call.unmap.argsz, call.unmap.flags, call.unmap.iova, call.unmap.size,
           call.bitmap.pgsize, call.bitmap.size, where(world, &call.bitmap));
  const long result = ioctl(world->containers[c], VFIO_IOMMU_UNMAP_DMA, argument);
  take_back(world, &call, sizeof(call));
  note_call(&world->record, arguments, result, "size=%#llx bitmap=%#llx", call.unmap.size,
            written(world));
}

static void get_bitmap(struct world* world) {
  struct {
    struct vfio_iommu_type1_dirty_bitmap header;
    struct vfio_iommu_type1_dirty_bitmap_get get;
  } call;
  memset(&call, 0, sizeof(call));
  const unsigned c = pick_container(world);
  const struct range range = pick_range(world);
  call.header.argsz = pick_argsz(world, sizeof(call));
  call.header.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
  call.get.iova = range.iova;
  call.get.size = range.size;
  call.get.bitmap = pick_bitmap(world, range.size);
  fill_bitmap(world);
  const char* how;
  void* argument = place(world, &call, sizeof(call), &how);
  const char* arguments =
      with("get_dirty c%u%s argsz=%u iova=%#llx size=%#llx pgsize=%#llx bytes=%#llx %s", c, how,
           call.header.argsz, call.get.iova, call.get.size, call.get.bitmap.pgsize,
           call.get.bitmap.size, where(world, &call.get.bitmap));
  const long result = ioctl(world->containers[c], VFIO_IOMMU_DIRTY_PAGES, argument);
  note_call(&world->record, arguments, result, "bitmap=%#llx", written(world));
}

static void switch_tracking(struct world* world) {
  static const uint32_t kFlags[] = {1, 1, 1, 2, 2, 0, 3, 8, 5, 7};
  const unsigned c = pick_container(world);
  const struct vfio_iommu_type1_dirty_bitmap header = {
      .argsz = pick_argsz(world, sizeof(header)),
      .flags = ONE_OF(&world->chance, kFlags),
  };
  const char* how;
  void* argument = place(world, &header, sizeof(header), &how);
  NOTE(&world->record, with("dirty c%u%s argsz=%u flags=%u", c, how, header.argsz, header.flags),
       ioctl(world->containers[c], VFIO_IOMMU_DIRTY_PAGES, argument));
}

void call_tracking(struct world* world) { switch_tracking(world); }

void call_dirty(struct world* world) {
  const uint32_t way = below(&world->chance, 8);
  if (way < 3) {
    switch_tracking(world);
  } else if (way < 6) {
    get_bitmap(world);
  } else {
    unmap_with_bitmap(world);
  }
}
