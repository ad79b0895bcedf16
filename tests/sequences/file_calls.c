// What containers, groups and devices are asked for besides DMA, and their opening and closing.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../include/uvfio/vfio_compat.h"
#include "world.h"

// Evaluated before anything is noted: the call decides about errno.
static void note_open(struct world* world, const char* arguments, int fd) {
  NOTE(&world->record, arguments, fd < 0 ? -1 : 0);
}

// ---- Containers

void call_container(struct world* world) {
  static const int kTypes[] = {1, 3, 3, 1, 0, 2, 4, 6, 7, 8, 9, 10, -1, 1000};
  struct chance* chance = &world->chance;
  const unsigned c = below(chance, kContainers);
  int* fd = &world->containers[c];
  if (*fd < 0) {
    *fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    note_open(world, with("open c%u", c), *fd);
    return;
  }
  const uint32_t way = below(chance, 16);
  int type = ONE_OF(chance, kTypes);
  if (world->direct && type == 6) {
    type = 3;  // The nesting type was retired.
  }
  if (way < 7) {
    const int usual = once_in(chance, 3) ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU;
    const int wanted = once_in(chance, 3) ? type : usual;
    NOTE(&world->record, with("set_iommu c%u %d", c, wanted), ioctl(*fd, VFIO_SET_IOMMU, wanted));
  } else if (way < 13) {
    NOTE(&world->record, with("extension c%u %d", c, type), ioctl(*fd, VFIO_CHECK_EXTENSION, type));
  } else if (way < 14) {
    NOTE(&world->record, with("version c%u", c), ioctl(*fd, VFIO_GET_API_VERSION));
  } else if (way < 15) {
    NOTE(&world->record, with("group_status c%u", c), ioctl(*fd, VFIO_GROUP_GET_STATUS, 0));
  } else if (once_in(chance, 2)) {
    NOTE(&world->record, with("close c%u", c), close(*fd));
    *fd = -1;
  }
}

// ---- Groups

static bool is_open(const struct world* world, unsigned m) {
  for (unsigned g = 0; g < kGroups; g++) {
    if (world->groups[g].fd >= 0 && world->groups[g].mdev == m) {
      return true;
    }
  }
  return false;
}

static void open_group(struct world* world, unsigned g) {
  struct open_group* group = &world->groups[g];
  unsigned m = below(&world->chance, kMdevs);
  if (!once_in(&world->chance, 6)) {  // One that nobody has open, if there is one.
    for (unsigned i = 0; i < kMdevs && (!world->mdevs[m].exists || is_open(world, m)); i++) {
      m = (m + 1) % kMdevs;
    }
  }
  if (!world->mdevs[m].exists) {
    return;  // Its number may be another group's by now.
  }
  *group = (struct open_group){.fd = open(world->mdevs[m].node, O_RDWR | O_CLOEXEC), .mdev = m};
  note_open(world, with("open g%u of m%u", g, m), group->fd);
}

static void set_container(struct world* world, unsigned g) {
  struct chance* chance = &world->chance;
  const unsigned c = below(chance, kContainers);
  int container = world->containers[c];
  const char* what = "";
  if (once_in(chance, 12)) {
    const unsigned other = below(chance, kDevices);
    static const char* const kWhat[] = {" a group", " a device", " minus 1", " 9999", " stdout"};
    const int fds[] = {world->groups[g].fd, world->devices[other].fd, -1, 9999, STDOUT_FILENO};
    const unsigned which = below(chance, 5);
    container = fds[which];
    what = kWhat[which];
  }
  const char* how;
  void* argument = place(world, &container, sizeof(container), &how);
  NOTE(&world->record, with("set_container g%u c%u%s%s", g, c, what, how),
       ioctl(world->groups[g].fd, VFIO_GROUP_SET_CONTAINER, argument));
}

static void get_status(struct world* world, unsigned g) {
  static const uint32_t kSizes[] = {0, 7, 9, 100};
  struct vfio_group_status status = {.argsz = sizeof(status)};
  if (once_in(&world->chance, 8)) {
    status.argsz = ONE_OF(&world->chance, kSizes);
  }
  const uint32_t argsz = status.argsz;
  const char* how;
  void* argument = place(world, &status, sizeof(status), &how);
  const long result = ioctl(world->groups[g].fd, VFIO_GROUP_GET_STATUS, argument);
  take_back(world, &status, sizeof(status));
  note_call(&world->record, with("status g%u argsz=%u%s", g, argsz, how), result, "flags=%#x",
            status.flags);
}

static void get_device(struct world* world, unsigned g) {
  struct chance* chance = &world->chance;
  const unsigned d = below(chance, kDevices);
  const unsigned m = once_in(chance, 10) ? below(chance, kMdevs) : world->groups[g].mdev;
  if (world->devices[d].fd >= 0) {
    close_device(world, d);
  }
  const char* name = world->mdevs[m].uuid;
  const char* what = "";
  if (once_in(chance, 20)) {
    static const char* const kNames[] = {"", "nobody", "83b8f4f2"};
    what = name = ONE_OF(chance, kNames);
  }
  const char* how;
  void* argument = place(world, name, strlen(name) + 1, &how);
  const int fd = ioctl(world->groups[g].fd, VFIO_GROUP_GET_DEVICE_FD, argument);
  world->devices[d] = (struct open_device){.fd = fd, .mdev = m};
  note_open(world, with("get_device g%u d%u m%u %s%s", g, d, m, what, how), fd);
}

void call_group(struct world* world) {
  const unsigned g = below(&world->chance, kGroups);
  struct open_group* group = &world->groups[g];
  if (group->fd < 0) {
    open_group(world, g);
    return;
  }
  const uint32_t way = below(&world->chance, 16);
  if (way < 5) {
    set_container(world, g);
  } else if (way < 7) {
    NOTE(&world->record, with("unset_container g%u", g),
         ioctl(group->fd, VFIO_GROUP_UNSET_CONTAINER));
  } else if (way < 9) {
    get_status(world, g);
  } else if (way < 13) {
    get_device(world, g);
  } else if (way < 14) {
    NOTE(&world->record, with("extension g%u", g), ioctl(group->fd, VFIO_CHECK_EXTENSION, 1));
  } else {
    NOTE(&world->record, with("close g%u", g), close(group->fd));
    group->fd = -1;
  }
}

// What it takes to have type1 in a container again, should that not be the case.
void call_mend(struct world* world) {
  const unsigned c = once_in(&world->chance, 5) ? 1 : 0;
  const unsigned g = below(&world->chance, kGroups);
  struct open_group* group = &world->groups[g];
  int* container = &world->containers[c];
  if (*container < 0) {
    *container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    note_open(world, with("open c%u", c), *container);
  }
  if (group->fd >= 0 && !world->mdevs[group->mdev].exists) {
    NOTE(&world->record, with("close g%u", g), close(group->fd));
    group->fd = -1;
  }
  if (group->fd < 0) {
    open_group(world, g);
  }
  NOTE(&world->record, with("set_container g%u c%u", g, c),
       ioctl(group->fd, VFIO_GROUP_SET_CONTAINER, container));
  const int type = once_in(&world->chance, 4) ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU;
  NOTE(&world->record, with("set_iommu c%u %d", c, type), ioctl(*container, VFIO_SET_IOMMU, type));
}

// ---- Devices

static void device_info(struct world* world, unsigned d) {
  static const uint32_t kSizes[] = {0, 15, 16, 19, 20, 21, 24, 64};
  struct open_device* device = &world->devices[d];
  char answer[64] = "";
  struct vfio_device_info* info = (void*)answer;
  const uint32_t argsz = once_in(&world->chance, 4) ? ONE_OF(&world->chance, kSizes) : 64;
  info->argsz = argsz;
  const char* how;
  void* argument = place(world, answer, sizeof(answer), &how);
  const long result = ioctl(device->fd, VFIO_DEVICE_GET_INFO, argument);
  take_back(world, answer, sizeof(answer));
  world->mdevs[device->mdev].informed |= !result;
  // Whether a reset works depends on the slot.
  const uint32_t hidden = world->direct ? VFIO_DEVICE_FLAGS_RESET : 0;
  note_call(&world->record, with("device_info d%u argsz=%u%s", d, argsz, how), result,
            "argsz=%u flags=%#x regions=%u irqs=%u", info->argsz, info->flags & ~hidden,
            info->num_regions, info->num_irqs);
}

static void region_info(struct world* world, unsigned d) {
  static const uint32_t kSizes[] = {0, 31, 33, 200};
  struct vfio_region_info info = {
      .argsz = once_in(&world->chance, 6) ? ONE_OF(&world->chance, kSizes) : sizeof(info),
      .index = below(&world->chance, 11),
  };
  const uint32_t argsz = info.argsz;
  const char* how;
  void* argument = place(world, &info, sizeof(info), &how);
  const long result = ioctl(world->devices[d].fd, VFIO_DEVICE_GET_REGION_INFO, argument);
  take_back(world, &info, sizeof(info));
  const uint32_t hidden = world->direct ? VFIO_REGION_INFO_FLAG_MMAP : 0;
  note_call(&world->record, with("region_info d%u argsz=%u %u%s", d, argsz, info.index, how),
            result, "flags=%#x size=%#llx offset=%#llx", info.flags & ~hidden, info.size,
            info.offset);
}

// A serial card knows its interrupts only once it was asked for its info.
static void irq_info(struct world* world, unsigned d) {
  if (!world->mdevs[world->devices[d].mdev].informed) {
    return;
  }
  struct vfio_irq_info info = {.argsz = sizeof(info), .index = below(&world->chance, 7)};
  if (world->direct && info.index == VFIO_PCI_ERR_IRQ_INDEX) {
    return;  // Older kernels have it for PCI Express only.
  }
  const char* how;
  void* argument = place(world, &info, sizeof(info), &how);
  const long result = ioctl(world->devices[d].fd, VFIO_DEVICE_GET_IRQ_INFO, argument);
  take_back(world, &info, sizeof(info));
  note_call(&world->record, with("irq_info d%u %u%s", d, info.index, how), result,
            "flags=%#x count=%u", info.flags, info.count);
}

static void probe_feature(struct world* world, unsigned d) {
  static const uint32_t kWays[] = {VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET,
                                   VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET, 0};
  struct vfio_device_feature feature = {
      .argsz = sizeof(feature),
      .flags = VFIO_DEVICE_FEATURE_PROBE | ONE_OF(&world->chance, kWays) |
               below(&world->chance, world->direct ? 11 : 16),
  };
  const char* how;
  void* argument = place(world, &feature, sizeof(feature), &how);
  NOTE(&world->record, with("feature d%u %#x%s", d, feature.flags, how),
       ioctl(world->devices[d].fd, VFIO_DEVICE_FEATURE, argument));
}

void call_device(struct world* world) {
  const unsigned d = below(&world->chance, kDevices);
  int* fd = &world->devices[d].fd;
  if (*fd < 0) {
    return;
  }
  switch (below(&world->chance, 7)) {
    case 0:
      device_info(world, d);
      break;
    case 1:
      region_info(world, d);
      break;
    case 2:
      irq_info(world, d);
      break;
    case 3:
      probe_feature(world, d);
      break;
    case 4:
      if (!world->direct) {
        NOTE(&world->record, with("reset d%u", d), ioctl(*fd, VFIO_DEVICE_RESET));
      }
      break;
    case 5:
      NOTE(&world->record, with("map d%u", d), ioctl(*fd, VFIO_IOMMU_MAP_DMA, 0));
      break;
    default:
      NOTE(&world->record, with("close d%u", d), close(*fd));
      *fd = -1;
  }
}
