// type1 with an IOMMU behind it: taking addresses away and giving new ones, dirty pages, DMA
// itself.

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "pci_fixture.h"

enum {
  kVaddr = VFIO_DMA_MAP_FLAG_VADDR,
  kInvalidate = VFIO_DMA_UNMAP_FLAG_VADDR,
  kAll = VFIO_DMA_UNMAP_FLAG_ALL,

  kStart = VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
  kStop = VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
  kGet = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
};

static const uint64_t kIova = 0x100000;
static const uint64_t kSize = 4 * kPage;

static void must_map(int container, const void* memory, uint64_t iova, uint64_t size) {
  if (map_memory(container, kRW, memory, iova, size)) {
    give_up("MAP_DMA");
  }
}

static void report_unmap(const char* name, int container, uint32_t flags, uint64_t iova,
                         uint64_t size) {
  long result = unmap_memory(container, flags, iova, &size);
  check_out(name, result, "size=%#llx", (unsigned long long)size);
}

// ---- New addresses

static void vaddr(void) {
  char* const memory = make_pages(16);
  for (int version = 1; version <= 2; version++) {
    struct vfio vfio = open_pci(0, version == 1 ? kType1 : kType1v2);
    const int c = vfio.container;
    const char* v = text("v%d", version);
    must_map(c, memory, kIova, kSize);
    must_map(c, memory, 0x200000, kSize);
    check(text("%s.valid", v), map_memory(c, kVaddr, memory, kIova, kSize));
    check(text("%s.nothing", v), map_memory(c, kVaddr, memory, 0x400000, kSize));
    report_unmap(text("%s.invalidate.hole", v), c, kInvalidate, 0x400000, kSize);
    report_unmap(text("%s.invalidate.cut", v), c, kInvalidate, kIova, kPage);
    report_unmap(text("%s.invalidate.size", v), c, kInvalidate | kAll, 0, kPage);
    report_unmap(text("%s.invalidate.dirty", v), c,
                 kInvalidate | VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, kIova, kSize);
    report_unmap(text("%s.invalidate.first", v), c, kInvalidate, kIova, kSize);
    report_unmap(text("%s.invalidate.again", v), c, kInvalidate, kIova, kSize);
    report_unmap(text("%s.invalidate.both", v), c, kInvalidate, kIova, 0x200000);
    report_unmap(text("%s.invalidate.all", v), c, kInvalidate | kAll, 0, 0);
    check(text("%s.update.read", v), map_memory(c, kVaddr | kR, memory, kIova, kSize));
    check(text("%s.update.short", v), map_memory(c, kVaddr, memory, kIova, kPage));
    check(text("%s.update.long", v), map_memory(c, kVaddr, memory, kIova, 2 * kSize));
    check(text("%s.update.shifted", v), map_memory(c, kVaddr, memory, kIova + kPage, kSize));
    check(text("%s.update.unaligned", v), map_memory(c, kVaddr, memory + 1, kIova, kSize));
    check(text("%s.update.other", v), map_memory(c, kVaddr, memory, 0x200000, kSize));
    check(text("%s.update.null", v), map_memory(c, kVaddr, NULL, kIova, kSize));
    check(text("%s.update.again", v), map_memory(c, kVaddr, memory + kSize, kIova, kSize));
    // What works with an address missing.
    report_unmap(text("%s.invalidate.second", v), c, kInvalidate, 0x200000, kSize);
    check(text("%s.missing.map", v), map_memory(c, kRW, memory, 0x300000, kSize));
    check(text("%s.missing.overlap", v), map_memory(c, kRW, memory, 0x200000, kSize));
    report_unmap(text("%s.missing.unmap", v), c, 0, 0x300000, kSize);
    report_unmap(text("%s.missing.unmap_invalid", v), c, 0, 0x200000, kSize);
    check(text("%s.gone.update", v), map_memory(c, kVaddr, memory, 0x200000, kSize));
    report_unmap(text("%s.all", v), c, kInvalidate | kAll, 0, 0);
    report_unmap(text("%s.unmap_all", v), c, kAll, 0, 0);
    report_unmap(text("%s.nothing_left", v), c, kInvalidate | kAll, 0, 0);
    close_vfio(&vfio);
  }
}

// No group joins while an address is missing.
static void vaddr_attach(void) {
  char* const memory = make_pages(4);
  struct vfio vfio = open_pci(0, kType1v2);
  const int second = open_pci_group(1);
  must_map(vfio.container, memory, kIova, kSize);
  report_unmap("invalidate", vfio.container, kInvalidate, kIova, kSize);
  check("attach", set_container(second, vfio.container));
  check("update", map_memory(vfio.container, kVaddr, memory, kIova, kSize));
  check("attach.updated", set_container(second, vfio.container));
}

// Does a call in another process and reports what came of it.
static void in_child(const char* name, long (*call)(int container, void* memory), int container,
                     void* memory) {
  pid_t child = fork();
  if (child < 0) {
    give_up("fork");
  }
  if (!child) {
    check(name, call(container, memory));
    _exit(0);
  }
  if (waitpid(child, NULL, 0) != child) {
    give_up("waitpid");
  }
}

static long update(int container, void* memory) {
  return map_memory(container, kVaddr, memory, kIova, kSize);
}

static long update_without_room(int container, void* memory) {
  limit_locked_memory(3);
  return update(container, memory);
}

static long map_more(int container, void* memory) {
  return map_memory(container, kRW, memory, 0x800000, kSize);
}

static long unmap_it(int container, void* memory) {
  (void)memory;
  uint64_t size = kSize;
  return unmap_memory(container, 0, kIova, &size);
}

// How many pages this process can still map.
static unsigned room(int container, const char* memory, unsigned most) {
  unsigned pages = 0;
  while (pages < most &&
         !map_memory(container, kRW, memory, 0x4000000 + pages * (uint64_t)kPage, kPage)) {
    pages++;
  }
  uint64_t size = pages * (uint64_t)kPage;
  if (pages && unmap_memory(container, 0, 0x4000000, &size)) {
    give_up("UNMAP_DMA");
  }
  return pages;
}

// The pages are counted for the process that gave the latest address.
static void vaddr_process(void) {
  char* const memory = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct vfio vfio = open_pci(0, kType1v2);
  const int c = vfio.container;
  limit_locked_memory(16);
  must_map(c, memory, kIova, kSize);
  check_value("room.mapped", "%u", room(c, memory, 32));
  report_unmap("invalidate", c, kInvalidate, kIova, kSize);
  check_value("room.invalidated", "%u", room(c, memory, 32));
  in_child("child.without_room", update_without_room, c, memory);
  check_value("room.after_failure", "%u", room(c, memory, 32));
  in_child("child.update", update, c, memory);
  check_value("room.updated", "%u", room(c, memory, 32));
  in_child("child.unmap", unmap_it, c, memory);
  check_value("room.unmapped", "%u", room(c, memory, 32));
}

// Another process maps and goes: its mapping stays, and was never this one's to count.
static void other_process(void) {
  char* const memory = make_pages(4);
  struct vfio vfio = open_pci(0, kType1v2);
  const int c = vfio.container;
  limit_locked_memory(16);
  const long available = dma_available(c);
  in_child("child.map", map_more, c, memory);
  check_value("stays", "%ld", available - dma_available(c));
  check_value("room", "%u", room(c, memory, 32));
  check("overlap", map_memory(c, kRW, memory, 0x800000, kPage));
  report_unmap("unmap", c, 0, 0x800000, kSize);
  check_value("room.unmapped", "%u", room(c, memory, 32));
  must_map(c, memory, kIova, kSize);
  in_child("child.unmap", unmap_it, c, memory);
  check_value("room.child_unmapped", "%u", room(c, memory, 32));
}

// ---- Dirty pages: a group that pins nothing of its own makes everything dirty

static uint64_t words[64];

static long dirty_pages(int container, uint32_t flags) {
  struct vfio_iommu_type1_dirty_bitmap dirty = {.argsz = sizeof(dirty), .flags = flags};
  return ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

static void report_dirty(const char* name, int container, uint64_t iova, uint64_t pages,
                         uint64_t old) {
  struct {
    struct vfio_iommu_type1_dirty_bitmap header;
    struct vfio_iommu_type1_dirty_bitmap_get get;
  } call = {
      .header = {.argsz = sizeof(call), .flags = kGet},
      .get = {.iova = iova,
              .size = pages * kPage,
              .bitmap = {.pgsize = kPage, .size = (pages + 63) / 64 * 8, .data = (void*)words}}};
  for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
    words[i] = old;
  }
  long result = ioctl(container, VFIO_IOMMU_DIRTY_PAGES, &call);
  check_out(name, result, "%s", hex(words, 32));
}

static void report_dirty_unmap(const char* name, int container, uint64_t iova, uint64_t pages) {
  struct {
    struct vfio_iommu_type1_dma_unmap unmap;
    struct vfio_bitmap bitmap;
  } call = {.unmap = {.argsz = sizeof(call),
                      .flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                      .iova = iova,
                      .size = pages * kPage},
            .bitmap = {.pgsize = kPage, .size = (pages + 63) / 64 * 8, .data = (void*)words}};
  memset(words, 0, sizeof(words));
  long result = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &call);
  check_out(name, result, "size=%#llx %s", (unsigned long long)call.unmap.size, hex(words, 32));
}

static void dirty(void) {
  char* const memory = make_pages(128);
  struct vfio vfio = open_pci(0, kType1v2);
  const int c = vfio.container;
  must_map(c, memory, kIova, 3 * kPage);
  must_map(c, memory, kIova + 3 * kPage, 5 * kPage);
  must_map(c, memory, 0x200000, 128 * kPage);
  report_dirty("off", c, kIova, 3, 0);
  check("start", dirty_pages(c, kStart));
  must_map(c, memory, 0x300000, 2 * kPage);
  report_dirty("first", c, kIova, 3, 0);
  report_dirty("first.again", c, kIova, 3, 0);
  report_dirty("second", c, kIova + 3 * kPage, 5, 0);
  report_dirty("both", c, kIova, 8, 0);
  report_dirty("from_below", c, kIova - 4 * kPage, 64, 0);
  report_dirty("hole", c, 0x400000, 64, 0);
  report_dirty("hole.old_bits", c, 0x400000, 64, ~0ull);
  report_dirty("old_bits", c, kIova, 64, ~0ull);
  report_dirty("two_words", c, 0x200000, 128, 0);
  report_dirty("shifted", c, 0x200000 - 5 * kPage, 192, 0);
  report_dirty("mapped_later", c, 0x300000, 2, 0);
  report_dirty("cut", c, kIova, 2, 0);
  report_dirty_unmap("unmap.first", c, kIova, 3);
  report_dirty_unmap("unmap.again", c, kIova, 3);
  report_dirty_unmap("unmap.rest", c, kIova, 512);
  check("stop", dirty_pages(c, kStop));
  report_dirty_unmap("unmap.stopped", c, 0x300000, 2);
  report_dirty("stopped", c, 0x300000, 2, 0);
  check("start_again", dirty_pages(c, kStart));
  report_dirty("started_again", c, 0x300000, 2, 0);
  report_unmap("invalidate", c, kInvalidate, 0x300000, 2 * kPage);
  report_dirty("invalid", c, 0x300000, 2, 0);
}

// Another group comes and goes while pages are tracked.
static void dirty_groups(void) {
  char* const memory = make_pages(8);
  struct vfio vfio = open_pci(0, kType1v2);
  const int c = vfio.container;
  const int second = open_pci_group(1);
  must_map(c, memory, kIova, 8 * kPage);
  check("start", dirty_pages(c, kStart));
  check("attach", set_container(second, c));
  report_dirty("attached", c, kIova, 8, 0);
  check("detach_first", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  report_dirty("first_left", c, kIova, 8, 0);
  report_dirty("first_left.again", c, kIova, 8, 0);
}

// ---- What the device gets to see

static void report_memory(const char* name, const void* memory) {
  check_value(name, "%s", hex(memory, 16));
}

static void dma(void) {
  char* const memory = make_pages(4);
  char* const other = make_pages(4);
  struct vfio vfio = open_pci(0, kDevice);
  const int c = vfio.container, d = vfio.device;
  set_command(d, kCommandMemory | kCommandMaster);
  strcpy(memory, "first page");
  strcpy(memory + kPage, "second page");
  must_map(c, memory, kIova, kSize);
  device_reads(d, kIova, 0, 16);
  device_writes(d, kIova + 2 * kPage, 0, 16);
  report_memory("copied", memory + 2 * kPage);
  device_reads(d, kIova + kPage - 8, 0, 24);
  device_writes(d, kIova + 3 * kPage, 8, 16);
  report_memory("across_pages", memory + 3 * kPage);
  // Written with the memory's address gone: the IOMMU does not care.
  report_unmap("invalidate", c, kInvalidate, kIova, kSize);
  memset(memory + 3 * kPage, 0, 16);
  device_writes(d, kIova + 3 * kPage, 8, 16);
  report_memory("invalidated", memory + 3 * kPage);
  check("update", map_memory(c, kVaddr, memory, kIova, kSize));
  // A mapping that may only be read.
  check("read_only", map_memory(c, kR, other, 0x200000, kSize));
  strcpy(other, "read only");
  device_writes(d, 0x200000, 8, 16);
  report_memory("read_only.written", other);
  device_reads(d, 0x200000, 0, 16);
  device_writes(d, kIova, 0, 16);
  report_memory("read_only.read", memory);
  report_unmap("unmap", c, 0, kIova, kSize);
  device_writes(d, kIova, 0, 16);
  device_writes(d, kIova + kPage, 0, 16);
  report_memory("unmapped", memory + kPage);
  must_map(c, other, kIova, kSize);
  device_writes(d, kIova + kPage, 0, 16);
  report_memory("mapped_anew", other + kPage);
  report_memory("mapped_anew.old", memory + kPage);
  // A device that is no bus master does not write.
  set_command(d, kCommandMemory);
  device_writes(d, kIova + 2 * kPage, 0, 16);
  report_memory("no_master", other + 2 * kPage);
  set_command(d, kCommandMemory | kCommandMaster);
  device_writes(d, kIova + 2 * kPage, 0, 16);
  report_memory("master", other + 2 * kPage);
}

// Two devices, one container; then one leaves.
static void dma_two_devices(void) {
  char* const memory = make_pages(4);
  struct vfio vfio = open_pci(0, kDevice);
  const int c = vfio.container;
  strcpy(memory, "mapped before");
  must_map(c, memory, kIova, kSize);
  const int group = open_pci_group(1);
  check("attach", set_container(group, c));
  const int device = check_fd("device", get_pci_device(group, pci_name(1)));
  set_command(vfio.device, kCommandMemory | kCommandMaster);
  set_command(device, kCommandMemory | kCommandMaster);
  device_reads(device, kIova, 0, 16);
  device_writes(device, kIova + kPage, 0, 16);
  report_memory("second", memory + kPage);
  close(device);
  check("leave", ioctl(group, VFIO_GROUP_UNSET_CONTAINER));
  device_reads(vfio.device, kIova, 0, 16);
  device_writes(vfio.device, kIova + 2 * kPage, 0, 16);
  report_memory("first_alone", memory + 2 * kPage);
  // A container of its own has other mappings.
  struct vfio own = {.container = open_container(), .group = group};
  check("own", set_container(own.group, own.container));
  check("own.set_iommu", ioctl(own.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  own.device = get_pci_device(group, pci_name(1));
  set_command(own.device, kCommandMemory | kCommandMaster);
  char* const others = make_pages(4);
  strcpy(others, "another memory");
  must_map(own.container, others, kIova, kSize);
  device_reads(own.device, kIova, 0, 16);
  device_writes(own.device, kIova + kPage, 0, 16);
  report_memory("own.memory", others + kPage);
  report_memory("own.not_memory", memory + kPage);
}

static const struct test_case kCases[] = {
    {"vaddr", vaddr},
    {"vaddr_attach", vaddr_attach},
    {"vaddr_process", vaddr_process},
    {"other_process", other_process},
    {"dirty", dirty},
    {"dirty_groups", dirty_groups},
    {"dma", dma},
    {"dma_two_devices", dma_two_devices},
};

const struct section domain_state_section = {
    .name = "domain_state",
    .summary = "type1 with an IOMMU: new addresses, dirty pages, DMA",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_pci = true,
};
