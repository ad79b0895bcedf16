// Dirty page tracking by the type1 IOMMU: DIRTY_PAGES, and UNMAP_DMA with GET_DIRTY_BITMAP.
//
// A mediated serial card pins nothing and writes no memory, so every page stays clean.

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

enum {
  kStart = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
  kStop = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
  kGet = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
};

// The one mapping: 128 pages, so two words of bitmap.
static const uint64_t kIova = 0x100000;
static const uint64_t kSize = 128 * kPage;

static uint64_t words[64];

static void map(int container, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map),
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = 0x10000000,
      .iova = iova,
      .size = size,
  };
  if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
    give_up("MAP_DMA");
  }
}

static long dirty_pages(int container, uint32_t flags) {
  struct vfio_iommu_type1_dirty_bitmap dirty = {.argsz = sizeof(dirty), .flags = flags};
  return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

// A call of either kind that carries a bitmap.
struct bitmap_call {
  const char* name;
  uint32_t argsz_less;  // Taken off the right argsz.
  uint64_t iova, size;
  uint64_t pgsize, bitmap_size;
  const void* data;
};

static const struct bitmap_call kCalls[] = {
    {"exact", 0, kIova, kSize, kPage, 16, words},
    {"bitmap_larger", 0, kIova, kSize, kPage, 512, words},
    {"bitmap_odd_size", 0, kIova, kSize, kPage, 17, words},
    {"argsz_short", 1, kIova, kSize, kPage, 16, words},
    {"argsz_header_only", 40, kIova, kSize, kPage, 16, words},
    {"size_zero", 0, kIova, 0, kPage, 16, words},
    {"size_unaligned", 0, kIova, kSize - 1, kPage, 16, words},
    {"size_below_page", 0, kIova, 1, kPage, 16, words},
    {"iova_unaligned", 0, kIova + 1, kSize, kPage, 16, words},
    {"wraps", 0, -(uint64_t)kPage, 2 * kPage, kPage, 16, words},
    {"wraps_unaligned", 0, UINT64_MAX, 2, kPage, 16, words},
    {"bitmap_one_short", 0, kIova, kSize, kPage, 15, words},
    {"bitmap_one_word", 0, kIova, kSize, kPage, 8, words},
    {"bitmap_empty", 0, kIova, kSize, kPage, 0, words},
    {"bitmap_too_large", 0, kIova, kSize, kPage, (256ull << 20) + 1, words},
    {"bitmap_largest", 0, kIova, kSize, kPage, 256ull << 20, words},
    {"pgsize_zero", 0, kIova, kSize, 0, 16, words},
    {"pgsize_one", 0, kIova, kSize, 1, 1 << 20, words},
    {"pgsize_2048", 0, kIova, kSize, 2048, 64, words},
    {"pgsize_8192", 0, kIova, kSize, 8192, 16, words},
    {"pgsize_odd", 0, kIova, kSize, kPage + 1, 16, words},
    {"pgsize_huge", 0, kIova, kSize, 2 << 20, 16, words},
    {"data_null", 0, kIova, kSize, kPage, 16, NULL},
    {"data_unmapped", 0, kIova, kSize, kPage, 16, (const void*)0x1000},
    {"data_kernel", 0, kIova, kSize, kPage, 16, (const void*)0xffff888000000000},
    {"data_last_byte", 0, kIova, kSize, kPage, 16, (const void*)UINTPTR_MAX},
    {"cut_first_page", 0, kIova, kPage, kPage, 16, words},
    {"cut_last_page", 0, kIova + kSize - kPage, kPage, kPage, 16, words},
    {"cut_middle", 0, kIova + kPage, 2 * kPage, kPage, 16, words},
    {"cut_from_below", 0, kIova - kPage, 2 * kPage, kPage, 16, words},
    {"around", 0, kIova - kPage, kSize + 2 * kPage, kPage, 24, words},
    {"around_from_word", 0, kIova - 64 * kPage, kSize + 64 * kPage, kPage, 24, words},
    {"hole", 0, 0x800000, kSize, kPage, 16, words},
    {"hole_one_page", 0, 0x800000, kPage, kPage, 8, words},
    {"whole_space", 0, 0, -(uint64_t)kPage, kPage, 256ull << 20, words},
};

// What the call left of the bitmap. The tables fill it with ones: words without a mapped page are
// the caller's.
static const char* describe_words(const struct bitmap_call* call) {
  return call->data == words ? text("bitmap=%s", hex(words, 24)) : "bitmap=-";
}

static long get_bitmap(int container, const struct bitmap_call* call) {
  union {
    struct vfio_iommu_type1_dirty_bitmap dirty;
    char bytes[sizeof(struct vfio_iommu_type1_dirty_bitmap) +
               sizeof(struct vfio_iommu_type1_dirty_bitmap_get)];
  } argument = {.dirty = {.argsz = sizeof(argument) - call->argsz_less, .flags = kGet}};
  const struct vfio_iommu_type1_dirty_bitmap_get range = {
      .iova = call->iova,
      .size = call->size,
      .bitmap = {.pgsize = call->pgsize, .size = call->bitmap_size, .data = (void*)call->data},
  };
  memcpy(argument.bytes + sizeof(argument.dirty), &range, sizeof(range));
  return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &argument);
}

static long unmap_with_bitmap(int container, const struct bitmap_call* call, uint64_t* unmapped) {
  union {
    struct vfio_iommu_type1_dma_unmap unmap;
    char bytes[sizeof(struct vfio_iommu_type1_dma_unmap) + sizeof(struct vfio_bitmap)];
  } argument = {.unmap = {
                    .argsz = sizeof(argument) - call->argsz_less,
                    .flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                    .iova = call->iova,
                    .size = call->size,
                }};
  const struct vfio_bitmap bitmap = {
      .pgsize = call->pgsize, .size = call->bitmap_size, .data = (void*)call->data};
  memcpy(argument.bytes + sizeof(argument.unmap), &bitmap, sizeof(bitmap));
  long result = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &argument);
  *unmapped = argument.unmap.size;
  return result;
}

static void get_table(void) {
  for (int tracking = 0; tracking <= 1; tracking++) {
    struct vfio vfio = open_vfio(kType1v2);
    map(vfio.container, kIova, kSize);
    if (tracking) {
      check("start", dirty_pages(vfio.container, kStart));
    }
    for (size_t i = 0; i < ARRAY_SIZE(kCalls); i++) {
      memset(words, 0xff, sizeof(words));
      long result = get_bitmap(vfio.container, &kCalls[i]);
      check_out(text("%s.%s", tracking ? "on" : "off", kCalls[i].name), result, "%s",
                describe_words(&kCalls[i]));
    }
    close_vfio(&vfio);
  }
}

static void unmap_bitmap_table(void) {
  for (int tracking = 0; tracking <= 1; tracking++) {
    struct vfio vfio = open_vfio(kType1v2);
    if (tracking) {
      check("start", dirty_pages(vfio.container, kStart));
    }
    map(vfio.container, kIova, kSize);
    const long available = dma_available(vfio.container);
    for (size_t i = 0; i < ARRAY_SIZE(kCalls); i++) {
      memset(words, 0xff, sizeof(words));
      uint64_t size;
      long result = unmap_with_bitmap(vfio.container, &kCalls[i], &size);
      const char* written = describe_words(&kCalls[i]);
      const bool removed = dma_available(vfio.container) != available;
      check_out(text("%s.%s", tracking ? "on" : "off", kCalls[i].name), result,
                "size=%#llx removed=%d %s", (unsigned long long)size, removed, written);
      if (removed) {
        map(vfio.container, kIova, kSize);
      }
    }
    close_vfio(&vfio);
  }
}

static void flags(void) {
  struct vfio vfio = open_vfio(kType1v2);
  map(vfio.container, kIova, kSize);
  for (int round = 0; round < 2; round++) {
    const char* state = round ? "started" : "stopped";
    const uint32_t all[] = {0, kStart | kStop, kStart | kGet, kStop | kGet, 7, 8, kStart | 8};
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
      check(text("%s.flags_%#x", state, all[i]), dirty_pages(vfio.container, all[i]));
    }
    check(text("%s.start", state), dirty_pages(vfio.container, kStart));
  }
  check("stop", dirty_pages(vfio.container, kStop));
  check("stop.again", dirty_pages(vfio.container, kStop));
  long result = get_bitmap(vfio.container, &kCalls[0]);
  check_out("get.stopped", result, "%s", describe_words(&kCalls[0]));
}

static void argument(void) {
  struct vfio vfio = open_vfio(kType1v2);
  const struct vfio_iommu_type1_dirty_bitmap dirty = {.argsz = sizeof(dirty), .flags = kStart};
  check_argsz("start", vfio.container, VFIO_IOMMU_DIRTY_PAGES, &dirty, sizeof(dirty), sizeof(dirty),
              NULL);
  check_pointers("start", vfio.container, VFIO_IOMMU_DIRTY_PAGES, &dirty, sizeof(dirty));
  char get[sizeof(dirty) + sizeof(struct vfio_iommu_type1_dirty_bitmap_get)];
  struct vfio_iommu_type1_dirty_bitmap header = {.argsz = sizeof(get), .flags = kGet};
  memset(get, 0, sizeof(get));
  memcpy(get, &header, sizeof(header));
  check_pointers("get", vfio.container, VFIO_IOMMU_DIRTY_PAGES, get, sizeof(get));
  check_argsz("get", vfio.container, VFIO_IOMMU_DIRTY_PAGES, get, sizeof(get), sizeof(get), NULL);
}

// Version 1 has none of it, and says so before it looks at the argument.
static void version_1(void) {
  struct vfio vfio = open_vfio(kType1);
  map(vfio.container, kIova, kSize);
  const uint32_t all[] = {0, kStart, kStop, kGet, 8};
  for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
    check(text("flags_%#x", all[i]), dirty_pages(vfio.container, all[i]));
  }
  const struct vfio_iommu_type1_dirty_bitmap dirty = {.argsz = sizeof(dirty), .flags = kStart};
  check_argsz("start", vfio.container, VFIO_IOMMU_DIRTY_PAGES, &dirty, sizeof(dirty), sizeof(dirty),
              NULL);
  check_pointers("start", vfio.container, VFIO_IOMMU_DIRTY_PAGES, &dirty, sizeof(dirty));
  uint64_t size;
  long result = unmap_with_bitmap(vfio.container, &kCalls[0], &size);
  check_out("unmap_with_bitmap", result, "size=%#llx", (unsigned long long)size);
}

// A mapping of more pages than a bitmap may have.
static void limits(void) {
  const uint64_t most = ((1ull << 31) - 1) * kPage;
  const struct {
    const char* name;
    uint64_t size;
  } sizes[] = {{"one_too_many", most + kPage}, {"much_too_many", 1ull << 60}};
  for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
    struct vfio vfio = open_vfio(kType1v2);
    map(vfio.container, kIova, kSize);
    map(vfio.container, 1ull << 62, sizes[i].size);
    check(text("%s.start", sizes[i].name), dirty_pages(vfio.container, kStart));
    // The mapping that could have been tracked is not.
    check(text("%s.get", sizes[i].name), get_bitmap(vfio.container, &kCalls[0]));
    close_vfio(&vfio);

    vfio = open_vfio(kType1v2);
    check(text("%s.start_empty", sizes[i].name), dirty_pages(vfio.container, kStart));
    struct vfio_iommu_type1_dma_map map = {
        .argsz = sizeof(map), .flags = 3, .iova = 1ull << 62, .size = sizes[i].size};
    check(text("%s.map", sizes[i].name), ioctl(vfio.container, VFIO_IOMMU_MAP_DMA, &map));
    check_value(text("%s.available", sizes[i].name), "%ld", dma_available(vfio.container));
    close_vfio(&vfio);
  }
}

// Two mappings side by side that share a word of the bitmap, then a hole, then one that was mapped
// while tracking.
static void several_mappings(void) {
  struct vfio vfio = open_vfio(kType1v2);
  map(vfio.container, 0x100000, 3 * kPage);
  map(vfio.container, 0x103000, 5 * kPage);
  check("start", dirty_pages(vfio.container, kStart));
  map(vfio.container, 0x10a000, 2 * kPage);
  const struct bitmap_call calls[] = {
      {"both", 0, 0x100000, 8 * kPage, kPage, 8, words},
      {"with_hole", 0, 0x100000, 64 * kPage, kPage, 8, words},
      {"from_below", 0, 0xfc000, 64 * kPage, kPage, 8, words},
      {"second", 0, 0x103000, 5 * kPage, kPage, 8, words},
      {"cut", 0, 0x100000, 4 * kPage, kPage, 8, words},
      {"third", 0, 0x10a000, 2 * kPage, kPage, 8, words},
  };
  memset(words, 0, sizeof(words));
  for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
    long result = get_bitmap(vfio.container, &calls[i]);
    check_out(calls[i].name, result, "%s", describe_words(&calls[i]));
  }
  uint64_t size;
  long result = unmap_with_bitmap(vfio.container, &calls[1], &size);
  check_out("unmap", result, "size=%#llx %s", (unsigned long long)size, describe_words(&calls[1]));
}

// The caller's own bits, in a word that also has a mapping's.
static void old_bits(void) {
  const struct {
    struct bitmap_call call;
    uint64_t old;
  } rows[] = {
      {{"after_mapping", 0, 0x100000, 64 * kPage, kPage, 8, words}, ~0ull << 8},
      {{"inside_mapping", 0, 0x100000, 64 * kPage, kPage, 8, words}, 0x3c},
      {{"before_mapping", 0, 0xfc000, 64 * kPage, kPage, 8, words}, 0xf},
      {{"behind_shifted_mapping", 0, 0xfc000, 64 * kPage, kPage, 8, words}, ~0ull << 12},
      {{"inside_shifted_mapping", 0, 0xfc000, 64 * kPage, kPage, 8, words}, 0xff0},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    struct vfio vfio = open_vfio(kType1v2);
    map(vfio.container, 0x100000, 8 * kPage);
    if (dirty_pages(vfio.container, kStart)) {
      give_up("DIRTY_PAGES START");
    }
    memset(words, 0, sizeof(words));
    words[0] = rows[i].old;
    long result = get_bitmap(vfio.container, &rows[i].call);
    check_out(rows[i].call.name, result, "%s", describe_words(&rows[i].call));
    // What the first call left must not show in the second.
    memset(words, 0, sizeof(words));
    result = get_bitmap(vfio.container, &rows[i].call);
    check_out(text("%s.second", rows[i].call.name), result, "%s", describe_words(&rows[i].call));
    close_vfio(&vfio);
  }
}

static const struct test_case kCases[] = {
    {"flags", flags},
    {"argument", argument},
    {"get", get_table},
    {"unmap", unmap_bitmap_table},
    {"version_1", version_1},
    {"limits", limits},
    {"several_mappings", several_mappings},
    {"old_bits", old_bits},
};

const struct section dirty_section = {
    .name = "dirty",
    .summary = "dirty page tracking by type1",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
