#include "world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../include/uvfio/vfio_compat.h"
#include "hotplug.h"
#include "limits.h"

static void* map_or_die(size_t size, int protection, int flags) {
  void* memory = mmap(NULL, size, protection, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    exit(2);
  }
  return memory;
}

static void make_memory(struct world* world) {
  world->bitmap = map_or_die(kReadable + kReserved, PROT_NONE, MAP_PRIVATE);
  world->zeros = map_or_die(kPage, PROT_READ, MAP_PRIVATE);
  world->argument = map_or_die(2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
  // The same page once more, at another place.
  world->read_only = mremap(world->argument, 0, kPage, MREMAP_MAYMOVE);
  if (world->read_only == MAP_FAILED || mprotect(world->read_only, kPage, PROT_READ) ||
      mprotect(world->argument + kPage, kPage, PROT_NONE) ||
      mprotect(world->bitmap, kReadable, PROT_READ | PROT_WRITE)) {
    perror("mprotect");
    exit(2);
  }
}

enum {
  kBufferPages = 512,
  kSmooth = 128,  // From this page on there is nothing special in a buffer.
};
static const uintptr_t kBuffers[] = {0x10000000, 0x20000000};

static void make_buffers(void) {
  static const int kKinds[] = {MAP_PRIVATE, MAP_SHARED};
  for (unsigned i = 0; i < 2; i++) {
    char* buffer = (char*)kBuffers[i];
    if (mmap(buffer, kBufferPages * kPage, PROT_READ | PROT_WRITE,
             kKinds[i] | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != buffer ||
        munmap(buffer + 40 * kPage, kPage) || mprotect(buffer + 50 * kPage, kPage, PROT_READ) ||
        mprotect(buffer + 60 * kPage, kPage, PROT_NONE)) {
      perror("buffer");
      exit(2);
    }
  }
}

uint64_t pick_memory(struct world* world) {
  static const uint64_t kOddAddresses[] = {
      0, 1, 0x10000800, 0xffff888000000000, 0 - (uint64_t)kPage, 1ull << 63,
  };
  if (once_in(&world->chance, 16)) {
    return ONE_OF(&world->chance, kOddAddresses);
  }
  const uint64_t page = below(&world->chance, 64) * (uint64_t)kPage;
  if (!world->direct) {
    return kBuffers[0] + page;
  }
  const uint64_t smooth = world->unit == kPage ? 0 : (uint64_t)kSmooth * kPage;
  return ONE_OF(&world->chance, kBuffers) + smooth + page;
}

// The direct devices: functions 1.0, 2.0, 3.0 and 3.1, of which the last two share a group.
static bool discover_direct(struct world* world) {
  static const char kNames[kMdevs][16] = {"0000:00:01.0", "0000:00:02.0", "0000:00:03.0",
                                          "0000:00:03.1"};
  world->direct = true;
  make_buffers();
  drop_lock_capability();
  for (unsigned i = 0; i < kMdevs; i++) {
    strcpy(world->mdevs[i].uuid, kNames[i]);
    if (!override_driver(&world->mdevs[i]) || !find_node(&world->mdevs[i])) {
      return false;
    }
  }
  return true;
}

static bool discover_mediated(struct world* world) {
  static const char kOwn[kMdevs][40] = {
      "",
      "c3d1f3a0-52c4-4c29-8f0e-000000000001",
      "c3d1f3a0-52c4-4c29-8f0e-000000000002",
      "c3d1f3a0-52c4-4c29-8f0e-000000000003",
  };
  for (unsigned i = 1; i < kMdevs; i++) {
    strcpy(world->mdevs[i].uuid, kOwn[i]);
  }
  DIR* devices = opendir(MDEV_DEVICES);
  for (struct dirent* entry; devices && (entry = readdir(devices));) {
    if (strlen(entry->d_name) == 36) {
      memcpy(world->mdevs[0].uuid, entry->d_name, 37);
    }
  }
  if (devices) {
    closedir(devices);
  }
  return *world->mdevs[0].uuid && find_node(&world->mdevs[0]);
}

bool discover(struct world* world, bool direct) {
  memset(world, 0, sizeof(*world));
  for (unsigned i = 0; i < kContainers; i++) {
    world->containers[i] = -1;
  }
  for (unsigned i = 0; i < kGroups; i++) {
    world->groups[i].fd = -1;
  }
  for (unsigned i = 0; i < kDevices; i++) {
    world->devices[i].fd = -1;
  }
  make_memory(world);
  return direct ? discover_direct(world) : discover_mediated(world);
}

void start_sequence(struct world* world, uint64_t seed) {
  world->chance.state = seed;
  // In some sequences every range starts and ends at a word of a dirty bitmap.
  world->unit = once_in(&world->chance, 4) ? 64 * kPage : kPage;
  memset(world->ranges, 0, sizeof(world->ranges));
  world->next_range = 0;
  for (unsigned i = 0; i < kMdevs; i++) {
    world->mdevs[i].informed = false;  // Nothing depends on the sequences before.
  }
  if (world->direct) {
    const uint32_t pages = world->unit == kPage ? 16 : 256;
    limit_locked_memory(pages + below(&world->chance, 4 * pages));
  }
}

static void close_slot(int* fd) {
  if (*fd >= 0) {
    close(*fd);
  }
  *fd = -1;
}

void close_device(struct world* world, unsigned slot) { close_slot(&world->devices[slot].fd); }

void end_sequence(struct world* world) {
  for (unsigned i = 0; i < kDevices; i++) {
    close_slot(&world->devices[i].fd);
  }
  for (unsigned i = 0; i < kGroups; i++) {
    close_slot(&world->groups[i].fd);
  }
  for (unsigned i = 0; i < kContainers; i++) {
    close_slot(&world->containers[i]);
  }
  for (unsigned i = 1; i < kMdevs; i++) {
    if (world->direct) {
      if (!world->mdevs[i].exists && bind_device(&world->mdevs[i]) < 0) {
        perror("bind");
        exit(2);
      }
      continue;
    }
    if (world->mdevs[i].exists && remove_mdev(&world->mdevs[i], "1") != 1) {
      perror("remove");
      exit(2);
    }
    world->mdevs[i].exists = false;
  }
}

void set_up(struct world* world) {
  const int type = once_in(&world->chance, 4) ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU;
  world->containers[0] = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  world->groups[0].fd = open(world->mdevs[0].node, O_RDWR | O_CLOEXEC);
  world->groups[0].mdev = 0;
  NOTE(&world->record, "set_up set_container",
       ioctl(world->groups[0].fd, VFIO_GROUP_SET_CONTAINER, &world->containers[0]));
  NOTE(&world->record, with("set_up set_iommu %d", type),
       ioctl(world->containers[0], VFIO_SET_IOMMU, type));
}

void* place(struct world* world, const void* argument, size_t size, const char** how) {
  memcpy(world->argument, argument, size);
  *how = "";
  if (!once_in(&world->chance, 40)) {
    return world->argument;
  }
  switch (below(&world->chance, 4)) {
    case 0:
      *how = " null";
      return NULL;
    case 1:
      *how = " nowhere";
      return world->argument + kPage;
    case 2:
      *how = " straddling";
      return memcpy(world->argument + kPage - size + 1, argument, size - 1);
    default:
      *how = " read_only";
      return world->read_only;
  }
}

void take_back(struct world* world, void* argument, size_t size) {
  memcpy(argument, world->argument, size);
}

// Where ranges like to be: low, around the x86 MSI window, above 4 GiB, at the ends of usual
// address widths, and at the very end.
static const uint64_t kBases[] = {
    0,          0x100000,   0x100000,   0x100000,          0xfee00000,
    1ull << 32, 1ull << 39, 1ull << 47, 0 - (64ull << 18), 1ull << 63,
};

static uint64_t some_units(struct world* world) {
  const uint32_t most = world->direct && world->unit != kPage ? 4 : 16;
  return (below(&world->chance, most) + 1) * world->unit;
}

static uint64_t pick_size(struct world* world, uint64_t iova) {
  if (!once_in(&world->chance, 16)) {
    return some_units(world);
  }
  switch (below(&world->chance, 8)) {
    case 0:
      return 0;
    case 1:  // To the very end, which older kernels do not reach.
      return world->direct ? 3 * world->unit : 0 - iova;
    case 2:
      return world->unit - iova;  // Beyond it.
    case 3:
      return 1ull << 63;
    case 4:
      return UINT64_MAX;
    case 5:
      return (1ull << 44) + some_units(world);  // More than a dirty bitmap can hold.
    case 6:
      return some_units(world) + 1;
    default:
      return some_units(world) - 0x800;
  }
}

struct range pick_range(struct world* world) {
  struct chance* chance = &world->chance;
  struct range range;
  const struct range old = ONE_OF(chance, world->ranges);
  const uint32_t way = below(chance, 20);
  if (way < 6) {
    return old;
  }
  if (way < 12) {  // Beside it, across one of its ends, or inside.
    const uint64_t starts[] = {old.iova - world->unit, old.iova, old.iova + world->unit,
                               old.iova + old.size - world->unit, old.iova + old.size};
    range.iova = ONE_OF(chance, starts);
  } else {
    const uint64_t base = ONE_OF(chance, kBases);
    // Nor its neighbourhood.
    range.iova =
        (world->direct && base > 1ull << 63 ? 1ull << 48 : base) + below(chance, 64) * world->unit;
  }
  if (once_in(chance, 40)) {
    static const uint64_t kOff[] = {1, 0x800, 0xfff};
    range.iova += ONE_OF(chance, kOff);
  }
  range.size = pick_size(world, range.iova);
  if (world->direct && range.iova && range.iova + range.size == 0) {
    range.size += world->unit;
  }
  return range;
}
