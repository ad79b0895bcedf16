// type1 with an IOMMU behind it: what it says of itself, and which memory it maps where.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "pci_fixture.h"

static const struct {
  const char* name;
  enum stage stage;
} kVersions[] = {{"v1", kType1}, {"v2", kType1v2}};

static const uint64_t kLastPage = -(uint64_t)kPage;
static const uint64_t kIova = 0x100000;

// ---- IOMMU_GET_INFO

union info {
  struct vfio_iommu_type1_info info;
  char bytes[kPage];
};

static void report_ranges(const char* name, const char* bytes) {
  struct vfio_iommu_type1_info_cap_iova_range cap;
  memcpy(&cap, bytes, sizeof(cap));
  for (unsigned i = 0; i < cap.nr_iovas; i++) {
    struct vfio_iova_range range;
    memcpy(&range, bytes + sizeof(cap) + i * sizeof(range), sizeof(range));
    check_value(text("%s.range%u", name, i), "%#llx-%#llx", (unsigned long long)range.start,
                (unsigned long long)range.end);
  }
}

static void report_info(const char* name, int container) {
  union info answer;
  memset(&answer, 0, sizeof(answer));
  answer.info.argsz = sizeof(answer);
  long result = ioctl(container, VFIO_IOMMU_GET_INFO, &answer);
  check_out(name, result, "flags=%#x pgsizes=%#llx cap_offset=%#x", answer.info.flags,
            (unsigned long long)answer.info.iova_pgsizes, answer.info.cap_offset);
  for (uint32_t at = answer.info.cap_offset; !result && at;) {
    struct vfio_info_cap_header header;
    memcpy(&header, answer.bytes + at, sizeof(header));
    const char* cap = text("%s.cap%u", name, header.id);
    check_value(cap, "at=%#x version=%u next=%#x", at, header.version, header.next);
    if (header.id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
      report_ranges(cap, answer.bytes + at);
    } else {
      check_value(text("%s.body", cap), "%s", hex(answer.bytes + at + sizeof(header), 8));
    }
    at = header.next;
  }
}

static void info(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_pci(0, kVersions[i].stage);
    report_info(kVersions[i].name, vfio.container);
    for (unsigned argsz = 0; argsz <= 160; argsz += 4) {
      union info answer;
      memset(&answer, 0, sizeof(answer));
      answer.info.argsz = argsz;
      long result = ioctl(vfio.container, VFIO_IOMMU_GET_INFO, &answer);
      check_out(text("%s.argsz.%u", kVersions[i].name, argsz), result,
                "argsz=%u flags=%#x cap_offset=%#x", answer.info.argsz, answer.info.flags,
                answer.info.cap_offset);
    }
    close_vfio(&vfio);
  }
}

static void extensions(void) {
  struct vfio vfio = open_pci(0, kAttached);
  for (int round = 0; round < 3; round++) {
    const char* const states[] = {"attached", "v1", "v2"};
    if (round) {
      vfio = open_pci(0, round == 1 ? kType1 : kType1v2);
    }
    for (int number = 0; number <= 12; number++) {
      check(text("%s.%d", states[round], number),
            ioctl(vfio.container, VFIO_CHECK_EXTENSION, number));
    }
    close_vfio(&vfio);
  }
}

static void set_iommu(void) {
  for (int type = 0; type <= 12; type++) {
    struct vfio vfio = open_pci(0, kAttached);
    check(text("type_%d", type), ioctl(vfio.container, VFIO_SET_IOMMU, type));
    check(text("type_%d.again", type), ioctl(vfio.container, VFIO_SET_IOMMU, type));
    close_vfio(&vfio);
  }
}

// ---- Where

static const struct {
  const char* name;
  uint32_t flags;
  uint64_t iova, size;
  bool hole;  // The second page of memory is missing.
} kPlaces[] = {
    {"zero", kRW, 0, kPage, false},
    {"flags.none", 0, kIova, kPage, false},
    {"flags.read", kR, kIova, kPage, false},
    {"flags.write", kW, kIova, kPage, false},
    {"flags.unknown", kRW | 8, kIova, kPage, false},
    {"size.zero", kRW, kIova, 0, false},
    {"size.one", kRW, kIova, 1, false},
    {"iova.unaligned", kRW, kIova + 1, kPage, false},
    // Message-signalled interrupts
    {"msi.below", kRW, 0xfee00000 - 4 * kPage, 4 * kPage, false},
    {"msi.first_page", kRW, 0xfee00000, kPage, false},
    {"msi.last_page", kRW, 0xfef00000 - kPage, kPage, false},
    {"msi.above", kRW, 0xfef00000, 4 * kPage, false},
    {"msi.into", kRW, 0xfee00000 - kPage, 2 * kPage, false},
    {"msi.out_of", kRW, 0xfef00000 - kPage, 2 * kPage, false},
    {"msi.around", kRW, 0xfe000000, 0x2000000, false},
    // The aperture's end
    {"end_39.last", kRW, (1ull << 39) - kPage, kPage, false},
    {"end_39.above", kRW, 1ull << 39, kPage, false},
    {"end_48.last", kRW, (1ull << 48) - kPage, kPage, false},
    {"end_48.last_four", kRW, (1ull << 48) - 4 * kPage, 4 * kPage, false},
    {"end_48.above", kRW, 1ull << 48, kPage, false},
    {"end_48.across", kRW, (1ull << 48) - kPage, 2 * kPage, false},
    {"end_57.last", kRW, (1ull << 57) - kPage, kPage, false},
    {"end_63.above", kRW, 1ull << 63, kPage, false},
    {"end_64.last", kRW, kLastPage, kPage, false},
    {"end_64.wraps", kRW, kLastPage, 2 * kPage, false},
    {"end_64.wraps_to_byte", kRW, UINT64_MAX, 2, false},
    // Which of two mistakes is seen first
    {"order.msi_hole", kRW, 0xfee00000 - kPage, 2 * kPage, true},
    {"order.wraps_no_flags", 0, kLastPage, 2 * kPage, false},
    {"order.overlap_msi", kRW, 0x200000, 0xff000000, false},
    {"order.overlap_hole", kRW, 0x200000 - kPage, 2 * kPage, true},
    {"order.overlap_beyond", kRW, 0x200000, 1ull << 50, false},
    {"order.unaligned_beyond", kRW, (1ull << 48) + 1, kPage, false},
};

static void places(void) {
  char* const memory = make_pages(8);
  char* const holed = make_pages(8);
  munmap(holed + kPage, kPage);
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_pci(0, kVersions[i].stage);
    for (size_t j = 0; j < ARRAY_SIZE(kPlaces); j++) {
      unmap_all(vfio.container);
      if (map_memory(vfio.container, kRW, memory, 0x200000, kPage)) {
        give_up("MAP_DMA");
      }
      const long available = dma_available(vfio.container);
      long result = map_memory(vfio.container, kPlaces[j].flags, kPlaces[j].hole ? holed : memory,
                               kPlaces[j].iova, kPlaces[j].size);
      const int error = errno;
      const long used = available - dma_available(vfio.container);
      uint64_t size = kPlaces[j].size;
      const long undone = result ? 0 : unmap_memory(vfio.container, 0, kPlaces[j].iova, &size);
      errno = error;
      check_out(text("%s.%s", kVersions[i].name, kPlaces[j].name), result,
                "used=%ld unmap=%ld size=%#llx", used, undone, (unsigned long long)size);
    }
    close_vfio(&vfio);
  }
}

// The aperture's last page and every address width around it, with nothing else in the container.
static void widths(void) {
  char* const memory = make_pages(2);
  struct vfio vfio = open_pci(0, kType1v2);
  for (unsigned bits = 30; bits < 64; bits++) {
    check(text("bit_%u.below", bits),
          map_memory(vfio.container, kRW, memory, (1ull << bits) - kPage, kPage));
    check(text("bit_%u.above", bits), map_memory(vfio.container, kRW, memory, 1ull << bits, kPage));
  }
  uint64_t size = 0;
  long result = unmap_memory(vfio.container, VFIO_DMA_UNMAP_FLAG_ALL, 0, &size);
  check_out("unmap_all", result, "size=%#llx", (unsigned long long)size);
}

// ---- Which memory

static int make_file(size_t pages) {
  char name[] = "/tmp/uvfio-conformance.XXXXXX";
  int fd = mkstemp(name);
  if (fd < 0 || unlink(name) || ftruncate(fd, (off_t)(pages * kPage))) {
    give_up("mkstemp");
  }
  return fd;
}

static void* map_file(int fd, size_t pages, int protection, int flags) {
  void* memory = mmap(NULL, pages * kPage, protection, flags, fd, 0);
  if (memory == MAP_FAILED) {
    give_up("mmap");
  }
  return memory;
}

static void memory_kinds(void) {
  char* untouched = make_pages(4);
  char* touched = memset(make_pages(4), 1, 4 * kPage);
  char* read_only = memset(make_pages(4), 1, 4 * kPage);
  char* untouched_read_only = make_pages(4);
  char* write_only = make_pages(4);
  char* no_access = make_pages(4);
  char* hole_second = make_pages(4);
  char* hole_last = make_pages(4);
  char* read_only_last = make_pages(4);
  char* shared = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  mprotect(read_only, 4 * kPage, PROT_READ);
  mprotect(untouched_read_only, 4 * kPage, PROT_READ);
  mprotect(write_only, 4 * kPage, PROT_WRITE);
  mprotect(no_access, 4 * kPage, PROT_NONE);
  munmap(hole_second + kPage, kPage);
  munmap(hole_last + 3 * kPage, kPage);
  mprotect(read_only_last + 3 * kPage, kPage, PROT_READ);
  const int file = make_file(4);
  const int short_file = make_file(2);
  const struct {
    const char* name;
    const void* memory;
  } kinds[] = {
      {"untouched", untouched},
      {"touched", touched},
      {"read_only", read_only},
      {"untouched_read_only", untouched_read_only},
      {"write_only", write_only},
      {"no_access", no_access},
      {"hole_second", hole_second},
      {"hole_last", hole_last},
      {"read_only_last", read_only_last},
      {"shared", shared},
      {"file_shared", map_file(file, 4, PROT_READ | PROT_WRITE, MAP_SHARED)},
      {"file_shared_read_only", map_file(file, 4, PROT_READ, MAP_SHARED)},
      {"file_private", map_file(file, 4, PROT_READ | PROT_WRITE, MAP_PRIVATE)},
      {"file_private_read_only", map_file(file, 4, PROT_READ, MAP_PRIVATE)},
      {"file_short", map_file(short_file, 4, PROT_READ | PROT_WRITE, MAP_SHARED)},
      {"null", NULL},
      {"page_one", (void*)kPage},
      {"kernel", (void*)0xffff888000000000},
      {"last_page", (void*)kLastPage},
      {"unaligned", touched + 1},
      {"half_page", touched + 0x800},
  };
  static const struct {
    const char* name;
    uint32_t flags;
  } accesses[] = {{"read", kR}, {"write", kW}, {"both", kRW}};
  struct vfio vfio = open_pci(0, kType1v2);
  for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
    for (size_t j = 0; j < ARRAY_SIZE(accesses); j++) {
      const long available = dma_available(vfio.container);
      long result =
          map_memory(vfio.container, accesses[j].flags, kinds[i].memory, kIova, 4 * kPage);
      const int error = errno;
      const long used = available - dma_available(vfio.container);
      uint64_t size = 0;
      unmap_memory(vfio.container, VFIO_DMA_UNMAP_FLAG_ALL, 0, &size);
      errno = error;
      check_out(text("%s.%s", kinds[i].name, accesses[j].name), result, "used=%ld", used);
    }
  }
}

// ---- RLIMIT_MEMLOCK

enum { kLimit = 64 };

// How many of up to `most` single pages can still be mapped; they stay.
static unsigned fill(int container, const char* memory, uint64_t iova, unsigned most) {
  for (unsigned i = 0; i < most; i++) {
    if (map_memory(container, kRW, memory, iova + i * (uint64_t)kPage, kPage)) {
      return i;
    }
  }
  return most;
}

static void limit(void) {
  char* const memory = memset(make_pages(2 * kLimit), 1, 2 * kLimit * kPage);
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_pci(0, kVersions[i].stage);
    const char* version = kVersions[i].name;
    limit_locked_memory(kLimit);
    const int c = vfio.container;
    check(text("%s.one_more", version), map_memory(c, kRW, memory, 0, (kLimit + 1) * kPage));
    check_value(text("%s.one_more.available", version), "%ld", dma_available(c));
    check(text("%s.exact", version), map_memory(c, kRW, memory, 0, kLimit * kPage));
    check(text("%s.full", version), map_memory(c, kRW, memory, 0x1000000, kPage));
    check(text("%s.full.read", version), map_memory(c, kR, memory, 0x1000000, kPage));
    check(text("%s.full.overlap", version), map_memory(c, kRW, memory, 0, kPage));
    check(text("%s.full.msi", version), map_memory(c, kRW, memory, 0xfee00000, kPage));
    check(text("%s.full.null", version), map_memory(c, kRW, NULL, 0x1000000, kPage));
    uint64_t size = kLimit * kPage;
    check(text("%s.unmap", version), unmap_memory(c, 0, 0, &size));
    check_value(text("%s.single_pages", version), "%u", fill(c, memory, 0, 2 * kLimit));
    size = kPage;
    unmap_memory(c, 0, 7 * kPage, &size);
    check_value(text("%s.one_again", version), "%u", fill(c, memory, 0x1000000, 2));
    // A hole is found before the limit, or after.
    unmap_all(c);
    check_value(text("%s.same_page", version), "%u",
                fill(c, memory, 0, kLimit / 2) + fill(c, memory, 0x1000000, kLimit));
    close_vfio(&vfio);
    vfio = open_pci(0, kVersions[i].stage);
    check_value(text("%s.closed", version), "%u", fill(vfio.container, memory, 0, 2 * kLimit));
    close_vfio(&vfio);
  }
}

static void limit_kinds(void) {
  struct vfio vfio = open_pci(0, kType1v2);
  limit_locked_memory(kLimit);
  const int file = make_file(2 * kLimit);
  const struct {
    const char* name;
    const char* memory;
    uint32_t flags;
  } kinds[] = {
      {"untouched.read", make_pages(2 * kLimit), kR},
      {"untouched.both", make_pages(2 * kLimit), kRW},
      {"shared.both", map_file(-1, 2 * kLimit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS),
       kRW},
      {"file_private.read", map_file(file, 2 * kLimit, PROT_READ | PROT_WRITE, MAP_PRIVATE), kR},
      {"file_private.both", map_file(file, 2 * kLimit, PROT_READ | PROT_WRITE, MAP_PRIVATE), kRW},
  };
  for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
    check(text("%s.exact", kinds[i].name),
          map_memory(vfio.container, kinds[i].flags, kinds[i].memory, 0, kLimit * kPage));
    unmap_all(vfio.container);
    check(text("%s.one_more", kinds[i].name),
          map_memory(vfio.container, kinds[i].flags, kinds[i].memory, 0, (kLimit + 1) * kPage));
    unmap_all(vfio.container);
  }
}

// Containers do not know what others have counted, but the process is one.
static void limit_containers(void) {
  char* const memory = memset(make_pages(kLimit), 1, kLimit * kPage);
  struct vfio first = open_pci(0, kType1v2);
  struct vfio second = open_pci(1, kType1v2);
  limit_locked_memory(kLimit);
  check_value("first", "%u", fill(first.container, memory, 0, kLimit / 4));
  check_value("second", "%u", fill(second.container, memory, 0, 2 * kLimit));
  close_vfio(&first);
  check_value("first_closed", "%u", fill(second.container, memory, 0x1000000, 2 * kLimit));
}

// With CAP_IPC_LOCK there is no limit, but what was mapped then counts.
static void limit_capability(void) {
  char* const memory = memset(make_pages(2 * kLimit), 1, 2 * kLimit * kPage);
  struct vfio vfio = open_pci(0, kType1v2);
  const int c = vfio.container;
  check("capable", map_memory(c, kRW, memory, 0, (kLimit + 1) * kPage));
  limit_locked_memory(kLimit);
  check("capability_dropped", map_memory(c, kRW, memory, 0x1000000, kPage));
  uint64_t size = (kLimit + 1) * kPage;
  check("unmap", unmap_memory(c, 0, 0, &size));
  check_value("unmapped", "%u", fill(c, memory, 0, 2 * kLimit));
  limit_locked_memory(kLimit / 2);
  check("limit_lowered", map_memory(c, kRW, memory, 0x1000000, kPage));
  unmap_all(c);
  check_value("limit_lowered.unmapped", "%u", fill(c, memory, 0, 2 * kLimit));
  limit_locked_memory(0);
  unmap_all(c);
  check("limit_zero", map_memory(c, kRW, memory, 0, kPage));
}

// ---- UNMAP_DMA

static const struct {
  const char* name;
  uint64_t iova, size;
} kUnmaps[] = {
    // What is there: 4 pages at 0x100000, 2 behind them, 1 at 0x200000.
    {"exact", 0x100000, 0x4000},     {"two", 0x100000, 0x6000},
    {"around", 0, 0x400000},         {"hole", 0x300000, kPage},
    {"cut.first", 0x100000, kPage},  {"cut.last", 0x103000, kPage},
    {"cut.middle", 0x101000, kPage}, {"cut.from_below", 0xff000, 2 * kPage},
    {"beyond", 1ull << 50, kPage},   {"msi", 0xfee00000, kPage},
    {"everything", 0, kLastPage},    {"last_page", kLastPage, kPage},
    {"wraps", kLastPage, 2 * kPage},
};

static void unmap(void) {
  char* const memory = make_pages(4);
  for (size_t i = 0; i < ARRAY_SIZE(kVersions); i++) {
    struct vfio vfio = open_pci(0, kVersions[i].stage);
    const long capacity = dma_available(vfio.container);
    for (size_t j = 0; j < ARRAY_SIZE(kUnmaps); j++) {
      unmap_all(vfio.container);
      if (map_memory(vfio.container, kRW, memory, 0x100000, 4 * kPage) ||
          map_memory(vfio.container, kRW, memory, 0x104000, 2 * kPage) ||
          map_memory(vfio.container, kRW, memory, 0x200000, kPage)) {
        give_up("MAP_DMA");
      }
      uint64_t size = kUnmaps[j].size;
      long result = unmap_memory(vfio.container, 0, kUnmaps[j].iova, &size);
      check_out(text("%s.%s", kVersions[i].name, kUnmaps[j].name), result, "size=%#llx left=%ld",
                (unsigned long long)size, capacity - dma_available(vfio.container));
    }
    close_vfio(&vfio);
  }
}

static const struct test_case kCases[] = {
    {"info", info},
    {"extensions", extensions},
    {"set_iommu", set_iommu},
    {"places", places},
    {"widths", widths},
    {"memory", memory_kinds},
    {"limit", limit},
    {"limit_kinds", limit_kinds},
    {"limit_containers", limit_containers},
    {"limit_capability", limit_capability},
    {"unmap", unmap},
};

const struct section domain_section = {
    .name = "domain",
    .summary = "type1 with an IOMMU: what it says, maps and counts",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_pci = true,
};
