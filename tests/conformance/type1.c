// The type1 IOMMU, versions 1 and 2: IOMMU_GET_INFO, MAP_DMA, UNMAP_DMA.
//
// The group of a mediated device is emulated: nothing is pinned at MAP_DMA, and vaddr is not looked
// at.

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

enum {
  kR = VFIO_DMA_MAP_FLAG_READ,
  kW = VFIO_DMA_MAP_FLAG_WRITE,
  kRW = kR | kW,
  kVaddr = VFIO_DMA_MAP_FLAG_VADDR,

  kDirty = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  kAll = VFIO_DMA_UNMAP_FLAG_ALL,
  kUnmapVaddr = VFIO_DMA_UNMAP_FLAG_VADDR,
};

static const struct {
  const char* name;
  enum stage stage;
} kVersions[] = {{"v1", kType1}, {"v2", kType1v2}};

static const uint64_t kBuffer = 0x10000000;  // Some user address; nobody looks there.
static const uint64_t kLastPage = -(uint64_t)kPage;

static long map_dma(int container, uint32_t flags, uint64_t vaddr, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map), .flags = flags, .vaddr = vaddr, .iova = iova, .size = size};
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static long unmap_dma(int container, uint32_t flags, uint64_t iova, uint64_t* size) {
  struct vfio_iommu_type1_dma_unmap unmap = {
      .argsz = sizeof(unmap), .flags = flags, .iova = iova, .size = *size};
  long result = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
  *size = unmap.size;
  return result;
}

static void unmap_everything(int container) {
  uint64_t size = 0;
  if (unmap_dma(container, kAll, 0, &size)) {
    give_up("UNMAP_DMA ALL");
  }
}

// Three mappings that every table below starts from: A and B touch, C is apart.
static const struct {
  uint64_t iova, size;
} kPresent[] = {
    {0x100000, 0x4000},  // A
    {0x104000, 0x2000},  // B
    {0x200000, 0x1000},  // C
};

static void map_present(int container) {
  unmap_everything(container);
  for (size_t i = 0; i < ARRAY_SIZE(kPresent); i++) {
    if (map_dma(container, kRW, kBuffer, kPresent[i].iova, kPresent[i].size)) {
      give_up("MAP_DMA");
    }
  }
}

// ---- IOMMU_GET_INFO

static const char* describe_info(const void* argument) {
  const struct vfio_iommu_type1_info* info = argument;
  return text("argsz=%#x flags=%#x pgsizes=%#llx cap_offset=%#x", info->argsz, info->flags,
              (unsigned long long)info->iova_pgsizes, info->cap_offset);
}

static void get_info(void) {
  const struct vfio_iommu_type1_info empty = {
      .argsz = 0, .flags = 0xffffffff, .iova_pgsizes = ~0ull, .cap_offset = 0xffffffff};
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check_argsz(kVersions[i].name, vfio.container, VFIO_IOMMU_GET_INFO, &empty,
                offsetof(struct vfio_iommu_type1_info, cap_offset), sizeof(empty), describe_info);
    struct vfio_iommu_type1_info info = {.argsz = 16};
    check_pointers(kVersions[i].name, vfio.container, VFIO_IOMMU_GET_INFO, &info, sizeof(info));
    close_vfio(&vfio);
  }
}

// The capability chain: where it is, what is in it, and the one byte that decides whether it fits.
static void capabilities(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    struct vfio_iommu_type1_info probe = {.argsz = sizeof(probe)};
    if (ioctl(vfio.container, VFIO_IOMMU_GET_INFO, &probe)) {
      give_up("IOMMU_GET_INFO");
    }
    const uint32_t needed = probe.argsz;
    const uint32_t sizes[] = {sizeof(probe), needed - 1, needed, needed + 1};
    const char* const names[] = {"struct", "one_short", "exact", "one_more"};
    for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
      union {
        struct vfio_iommu_type1_info info;
        unsigned char bytes[512];
      } answer;
      memset(&answer, 0xee, sizeof(answer));
      answer.info.argsz = sizes[j];
      long result = ioctl(vfio.container, VFIO_IOMMU_GET_INFO, &answer);
      check_out(text("%s.%s", kVersions[i].name, names[j]), result, "%s", describe_info(&answer));
      check_value(text("%s.%s.bytes", kVersions[i].name, names[j]), "%s",
                  hex(answer.bytes + sizeof(answer.info), needed + 8 - sizeof(answer.info)));
      for (uint32_t at = answer.info.cap_offset; at && at < needed;) {
        struct vfio_info_cap_header cap;
        memcpy(&cap, answer.bytes + at, sizeof(cap));
        check_value(text("%s.%s.cap%u", kVersions[i].name, names[j], cap.id),
                    "at=%#x version=%u next=%#x", at, cap.version, cap.next);
        at = cap.next;
      }
    }
    close_vfio(&vfio);
  }
}

static void available(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check_value(text("%s.empty", kVersions[i].name), "%ld", dma_available(vfio.container));
    map_present(vfio.container);
    check_value(text("%s.three", kVersions[i].name), "%ld", dma_available(vfio.container));
    check(text("%s.refused", kVersions[i].name),
          map_dma(vfio.container, kRW, kBuffer, kPresent[0].iova, kPage));
    check_value(text("%s.after_refusal", kVersions[i].name), "%ld", dma_available(vfio.container));
    unmap_everything(vfio.container);
    check_value(text("%s.unmapped", kVersions[i].name), "%ld", dma_available(vfio.container));
    close_vfio(&vfio);
  }
}

// ---- MAP_DMA

static const struct {
  const char* name;
  uint32_t flags;
  uint64_t vaddr, iova, size;
} kMaps[] = {
    // Access
    {"flags.none", 0, kBuffer, 0x300000, kPage},
    {"flags.read", kR, kBuffer, 0x300000, kPage},
    {"flags.write", kW, kBuffer, 0x300000, kPage},
    {"flags.read_write", kRW, kBuffer, 0x300000, kPage},
    {"flags.unknown", kRW | 8, kBuffer, 0x300000, kPage},
    {"flags.unknown_top", kRW | 1u << 31, kBuffer, 0x300000, kPage},
    // Size
    {"size.zero", kRW, kBuffer, 0x300000, 0},
    {"size.zero_no_flags", 0, kBuffer, 0x300000, 0},
    {"size.one", kRW, kBuffer, 0x300000, 1},
    {"size.page_less_one", kRW, kBuffer, 0x300000, kPage - 1},
    {"size.page_and_one", kRW, kBuffer, 0x300000, kPage + 1},
    {"size.largest", kRW, kBuffer, 0x300000, UINT64_MAX},
    {"size.tebibyte", kRW, kBuffer, 0x100000000, 1ull << 40},
    // Alignment
    {"iova.plus_one", kRW, kBuffer, 0x300001, kPage},
    {"iova.half_page", kRW, kBuffer, 0x300800, kPage},
    {"vaddr.plus_one", kRW, kBuffer + 1, 0x300000, kPage},
    {"vaddr.half_page", kRW, kBuffer + 0x800, 0x300000, kPage},
    {"all.half_page", kRW, kBuffer + 0x800, 0x300800, 0x800},
    // vaddr is looked at only for its arithmetic
    {"vaddr.null", kRW, 0, 0x300000, kPage},
    {"vaddr.kernel", kRW, 0xffff888000000000, 0x300000, kPage},
    {"vaddr.last_page", kRW, kLastPage, 0x300000, kPage},
    {"vaddr.wraps", kRW, kLastPage, 0x300000, 2 * kPage},
    {"vaddr.wraps_unaligned", kRW, UINT64_MAX, 0x300000, 2},
    // The ends of the IOVA space
    {"iova.zero", kRW, kBuffer, 0, kPage},
    {"iova.last_page", kRW, kBuffer, kLastPage, kPage},
    {"iova.last_two_pages", kRW, kBuffer, kLastPage - kPage, 2 * kPage},
    {"iova.wraps", kRW, kBuffer, kLastPage, 2 * kPage},
    {"iova.wraps_to_zero_bytes", kRW, kBuffer, UINT64_MAX, 2},
    {"iova.last_byte", kRW, kBuffer, UINT64_MAX, 1},
    {"iova.top_bit", kRW, kBuffer, 1ull << 63, kPage},
    {"iova.both_wrap", kRW, kLastPage, kLastPage, 2 * kPage},
    {"iova.upper_half", kRW, 0, 1ull << 63, 1ull << 63},
    {"iova.everything_but_a_page", kRW, 0, kPage, kLastPage},
    {"iova.msi_window", kRW, kBuffer, 0xfee00000, kPage},
    // Overlaps
    {"overlap.same", kRW, kBuffer, 0x100000, 0x4000},
    {"overlap.inside", kRW, kBuffer, 0x101000, kPage},
    {"overlap.start", kRW, kBuffer, 0xff000, 2 * kPage},
    {"overlap.end", kRW, kBuffer, 0x105000, 2 * kPage},
    {"overlap.around", kRW, kBuffer, 0xff000, 0x8000},
    {"overlap.around_all", kRW, kBuffer, 0, 0x400000},
    {"overlap.from_zero", kRW, kBuffer, 0, 0x101000},
    {"touch.below", kRW, kBuffer, 0xff000, kPage},
    {"touch.above", kRW, kBuffer, 0x106000, kPage},
    {"gap.filled", kRW, kBuffer, 0x106000, 0x200000 - 0x106000},
    {"gap.overfilled", kRW, kBuffer, 0x106000, 0x200000 - 0x106000 + kPage},
    {"overlap.unaligned", kRW, kBuffer, 0x100800, kPage},
    {"overlap.no_flags", 0, kBuffer, 0x100000, kPage},
    // A new vaddr for an old mapping: none is waiting for one
    {"vaddr_flag.nothing", kVaddr, kBuffer, 0x300000, kPage},
    {"vaddr_flag.exact", kVaddr, kBuffer, 0x100000, 0x4000},
    {"vaddr_flag.smaller", kVaddr, kBuffer, 0x100000, kPage},
    {"vaddr_flag.larger", kVaddr, kBuffer, 0x100000, 0x5000},
    {"vaddr_flag.and_read", kVaddr | kR, kBuffer, 0x100000, 0x4000},
    {"vaddr_flag.and_write", kVaddr | kW, kBuffer, 0x300000, kPage},
    {"vaddr_flag.size_zero", kVaddr, kBuffer, 0x100000, 0},
    {"vaddr_flag.unaligned", kVaddr, kBuffer + 1, 0x100000, 0x4000},
    {"vaddr_flag.unaligned_nothing", kVaddr, kBuffer + 1, 0x300000, kPage},
    // Which of two mistakes is seen first
    {"order.wraps_no_flags", 0, kBuffer, kLastPage, 2 * kPage},
    {"order.wraps_vaddr_and_read", kVaddr | kR, kBuffer, kLastPage, 2 * kPage},
    {"order.wraps_unknown_flag", kRW | 8, kBuffer, kLastPage, 2 * kPage},
    {"order.zero_unknown_flag", kRW | 8, kBuffer, 0x300000, 0},
    {"order.zero_unaligned", kRW, kBuffer, 0x300001, 0},
    {"order.unaligned_no_flags", 0, kBuffer, 0x300001, kPage},
};

static void map_table(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    for (size_t j = 0; j < ARRAY_SIZE(kMaps); j++) {
      map_present(vfio.container);
      long result =
          map_dma(vfio.container, kMaps[j].flags, kMaps[j].vaddr, kMaps[j].iova, kMaps[j].size);
      const char* name = text("%s.%s", kVersions[i].name, kMaps[j].name);
      if (result) {
        check(name, result);
        continue;
      }
      uint64_t size = kMaps[j].size;
      long undone = unmap_dma(vfio.container, 0, kMaps[j].iova, &size);
      check_out(name, result, "unmap=%ld size=%#llx", undone, (unsigned long long)size);
    }
    close_vfio(&vfio);
  }
}

static void map_argument(void) {
  const struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map), .flags = kRW, .vaddr = kBuffer, .iova = 0x300000, .size = kPage};
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check_argsz(kVersions[i].name, vfio.container, VFIO_IOMMU_MAP_DMA, &map, sizeof(map),
                sizeof(map), NULL);
    unmap_everything(vfio.container);
    check_pointers(kVersions[i].name, vfio.container, VFIO_IOMMU_MAP_DMA, &map, sizeof(map));
    close_vfio(&vfio);
  }
}

static void entry_limit(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    const char* version = kVersions[i].name;
    struct vfio vfio = open_vfio(kVersions[i].stage);
    uint64_t entries = 0;
    long result;
    while (!(result = map_dma(vfio.container, kRW, kBuffer, entries * kPage, kPage))) {
      entries++;
    }
    check_out(text("%s.full", version), result, "entries=%llu", (unsigned long long)entries);
    check_value(text("%s.full.available", version), "%ld", dma_available(vfio.container));
    check(text("%s.full.overlap", version), map_dma(vfio.container, kRW, kBuffer, 0, kPage));
    check(text("%s.full.bad_flags", version),
          map_dma(vfio.container, 0, kBuffer, entries * kPage, kPage));
    uint64_t size = kPage;
    result = unmap_dma(vfio.container, 0, 10 * kPage, &size);
    check_out(text("%s.unmap_one", version), result, "size=%#llx", (unsigned long long)size);
    check(text("%s.map_one", version),
          map_dma(vfio.container, kRW, kBuffer, entries * kPage, kPage));
    check(text("%s.full_again", version), map_dma(vfio.container, kRW, kBuffer, 10 * kPage, kPage));
    size = 1000 * kPage;
    result = unmap_dma(vfio.container, 0, 100 * kPage, &size);
    check_out(text("%s.unmap_thousand", version), result, "size=%#llx available=%ld",
              (unsigned long long)size, dma_available(vfio.container));
    size = 0;
    result = unmap_dma(vfio.container, kAll, 0, &size);
    check_out(text("%s.unmap_all", version), result, "size=%#llx available=%ld",
              (unsigned long long)size, dma_available(vfio.container));
    close_vfio(&vfio);
  }
}

// ---- UNMAP_DMA

static const struct {
  const char* name;
  uint32_t flags;
  uint64_t iova, size;
} kUnmaps[] = {
    // What is there: A 0x100000+0x4000, B 0x104000+0x2000, C 0x200000+0x1000
    {"exact.a", 0, 0x100000, 0x4000},
    {"exact.a_and_b", 0, 0x100000, 0x6000},
    {"exact.c", 0, 0x200000, kPage},
    {"around.a", 0, 0xff000, 0x5000},
    {"around.b_and_c", 0, 0x104000, 0x100000},
    {"around.all", 0, 0, 0x400000},
    {"around.low_half", 0, 0, 1ull << 63},
    {"around.almost_everything", 0, 0, kLastPage},
    // Nothing there
    {"hole.below", 0, 0, kPage},
    {"hole.between", 0, 0x106000, kPage},
    {"hole.above", 0, 0x300000, kPage},
    {"hole.last_page", 0, kLastPage, kPage},
    {"hole.touching_a", 0, 0xff000, kPage},
    // Cuts
    {"cut.first_page_of_a", 0, 0x100000, kPage},
    {"cut.last_page_of_a", 0, 0x103000, kPage},
    {"cut.middle_of_a", 0, 0x101000, 2 * kPage},
    {"cut.into_a_from_below", 0, 0xff000, 2 * kPage},
    {"cut.end_of_a_and_b", 0, 0x103000, 0x3000},
    {"cut.a_and_start_of_b", 0, 0x100000, 0x5000},
    {"cut.end_of_a_start_of_b", 0, 0x103000, 2 * kPage},
    {"cut.end_of_b_and_c", 0, 0x105000, 0x100000},
    {"cut.a_b_and_beyond", 0, 0x100000, 0x7000},
    // Arguments
    {"size.zero", 0, 0x100000, 0},
    {"size.zero_at_zero", 0, 0, 0},
    {"size.one", 0, 0x100000, 1},
    {"size.page_and_one", 0, 0x100000, kPage + 1},
    {"size.largest", 0, 0, UINT64_MAX},
    {"iova.plus_one", 0, 0x100001, 0x4000},
    {"iova.half_page", 0, 0x100800, 0x4000},
    {"iova.wraps", 0, kLastPage, 2 * kPage},
    {"iova.wraps_unaligned", 0, UINT64_MAX, 2},
    {"flags.unknown", 8, 0x100000, 0x4000},
    {"flags.unknown_top", 1u << 31, 0x100000, 0x4000},
    // Everything
    {"all", kAll, 0, 0},
    {"all.iova", kAll, kPage, 0},
    {"all.iova_unaligned", kAll, 1, 0},
    {"all.size", kAll, 0, kPage},
    {"all.size_unaligned", kAll, 0, 1},
    // Take the addresses away, keep the mappings: not with an emulated group
    {"vaddr", kUnmapVaddr, 0x100000, 0x4000},
    {"vaddr.hole", kUnmapVaddr, 0x300000, kPage},
    {"vaddr.all", kUnmapVaddr | kAll, 0, 0},
    {"vaddr.all_and_size", kUnmapVaddr | kAll, 0, kPage},
    {"vaddr.size_zero", kUnmapVaddr, 0x100000, 0},
    {"vaddr.unaligned", kUnmapVaddr, 1, 1},
    {"vaddr.wraps", kUnmapVaddr, kLastPage, 2 * kPage},
    {"vaddr.unknown_flag", kUnmapVaddr | 8, 0x100000, 0x4000},
    // The flag that needs more of an argument
    {"dirty.argsz_short", kDirty, 0x100000, 0x4000},
    {"dirty.and_all", kDirty | kAll, 0, 0},
    {"dirty.and_vaddr", kDirty | kUnmapVaddr, 0x100000, 0x4000},
};

static void unmap_table(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    const long capacity = dma_available(vfio.container);
    for (size_t j = 0; j < ARRAY_SIZE(kUnmaps); j++) {
      map_present(vfio.container);
      uint64_t size = kUnmaps[j].size;
      long result = unmap_dma(vfio.container, kUnmaps[j].flags, kUnmaps[j].iova, &size);
      check_out(text("%s.%s", kVersions[i].name, kUnmaps[j].name), result, "size=%#llx left=%ld",
                (unsigned long long)size, capacity - dma_available(vfio.container));
    }
    close_vfio(&vfio);
  }
}

static void unmap_argument(void) {
  const struct vfio_iommu_type1_dma_unmap unmap = {
      .argsz = sizeof(unmap), .iova = 0x300000, .size = kPage};
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check_argsz(kVersions[i].name, vfio.container, VFIO_IOMMU_UNMAP_DMA, &unmap, sizeof(unmap),
                sizeof(unmap), NULL);
    check_pointers(kVersions[i].name, vfio.container, VFIO_IOMMU_UNMAP_DMA, &unmap, sizeof(unmap));
    // A mapping whose size cannot be reported is gone all the same.
    const struct vfio_iommu_type1_dma_unmap everything = {.argsz = sizeof(unmap), .flags = kAll};
    map_present(vfio.container);
    const long before = dma_available(vfio.container);
    check_pointers(text("%s.all", kVersions[i].name), vfio.container, VFIO_IOMMU_UNMAP_DMA,
                   &everything, sizeof(everything));
    check_value(text("%s.all.removed", kVersions[i].name), "%ld",
                dma_available(vfio.container) - before);
    close_vfio(&vfio);
  }
}

// A v1 mapping need not be unmapped in the pieces it was mapped in; a v2 one must.
static void versions_differ(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check(text("%s.map", kVersions[i].name),
          map_dma(vfio.container, kRW, kBuffer, 0x100000, 0x10000));
    const struct {
      const char* name;
      uint64_t iova, size;
    } steps[] = {
        {"second_page", 0x101000, kPage},
        {"below_and_first_page", 0xff000, 2 * kPage},
        {"whole", 0x100000, 0x10000},
        {"whole_again", 0x100000, 0x10000},
    };
    for (size_t j = 0; j < ARRAY_SIZE(steps); j++) {
      uint64_t size = steps[j].size;
      long result = unmap_dma(vfio.container, 0, steps[j].iova, &size);
      check_out(text("%s.%s", kVersions[i].name, steps[j].name), result, "size=%#llx",
                (unsigned long long)size);
    }
    close_vfio(&vfio);
  }
}

// ---- the rest

static void unknown_ioctls(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_vfio(kVersions[i].stage);
    check(text("%s.spapr_enable", kVersions[i].name), ioctl(vfio.container, VFIO_IOMMU_ENABLE));
    check(text("%s.spapr_disable", kVersions[i].name), ioctl(vfio.container, VFIO_IOMMU_DISABLE));
    check(text("%s.eeh", kVersions[i].name), ioctl(vfio.container, VFIO_EEH_PE_OP, 0));
    check(text("%s.device_info", kVersions[i].name),
          ioctl(vfio.container, VFIO_DEVICE_GET_INFO, 0));
    check(text("%s.group_status", kVersions[i].name),
          ioctl(vfio.container, VFIO_GROUP_GET_STATUS, 0));
    close_vfio(&vfio);
  }
}

static const struct test_case kCases[] = {
    {"get_info", get_info},
    {"capabilities", capabilities},
    {"available", available},
    {"map", map_table},
    {"map_argument", map_argument},
    {"entry_limit", entry_limit},
    {"unmap", unmap_table},
    {"unmap_argument", unmap_argument},
    {"versions_differ", versions_differ},
    {"unknown_ioctls", unknown_ioctls},
};

const struct section type1_section = {
    .name = "type1",
    .summary = "mapping and unmapping, type1 v1 and v2",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
