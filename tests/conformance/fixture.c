#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

void* const null_pointer = NULL;

static char device_uuid[64];

bool find_device(const char* uuid) {
  if (uuid && *uuid) {
    snprintf(device_uuid, sizeof(device_uuid), "%s", uuid);
    return access(text("%s/%s", MDEV_DEVICES, uuid), F_OK) == 0;
  }
  DIR* devices = opendir(MDEV_DEVICES);
  if (!devices) {
    return false;
  }
  // The smallest name, so that the choice does not depend on the order of the directory.
  for (struct dirent* entry; (entry = readdir(devices));) {
    if (entry->d_name[0] != '.' && (!*device_uuid || strcmp(entry->d_name, device_uuid) < 0)) {
      snprintf(device_uuid, sizeof(device_uuid), "%.63s", entry->d_name);
    }
  }
  closedir(devices);
  return *device_uuid;
}

const char* device_name(void) { return device_uuid; }

const char* group_number(const char* uuid) {
  char target[PATH_MAX];
  ssize_t length =
      readlink(text("%s/%s/iommu_group", MDEV_DEVICES, uuid), target, sizeof(target) - 1);
  if (length < 0) {
    give_up("iommu_group");
  }
  target[length] = '\0';
  const char* slash = strrchr(target, '/');
  return text("%s", slash ? slash + 1 : target);
}

const char* group_path(const char* uuid) { return text("/dev/vfio/%s", group_number(uuid)); }

int open_container(void) {
  int fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    give_up("open container");
  }
  return fd;
}

static int open_group_of(const char* uuid) {
  int fd = open(group_path(uuid), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    give_up("open group");
  }
  return fd;
}

int open_group(void) { return open_group_of(device_uuid); }

long set_container(int group, int container) {
  return ioctl(group, VFIO_GROUP_SET_CONTAINER, &container);
}

int get_device_fd(int group) { return ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device_uuid); }

struct vfio open_vfio_of(const char* uuid, enum stage stage) {
  struct vfio vfio = {.container = open_container(), .group = open_group_of(uuid), .device = -1};
  if (stage >= kAttached && set_container(vfio.group, vfio.container)) {
    give_up("SET_CONTAINER");
  }
  if (stage >= kType1) {
    int type = stage == kType1 ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU;
    if (ioctl(vfio.container, VFIO_SET_IOMMU, type)) {
      give_up("SET_IOMMU");
    }
  }
  if (stage >= kDevice) {
    vfio.device = ioctl(vfio.group, VFIO_GROUP_GET_DEVICE_FD, uuid);
    if (vfio.device < 0) {
      give_up("GET_DEVICE_FD");
    }
  }
  return vfio;
}

struct vfio open_vfio(enum stage stage) {
  return open_vfio_of(device_uuid, stage);
}

void close_vfio(struct vfio* vfio) {
  int* const fds[] = {&vfio->device, &vfio->group, &vfio->container};
  for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
    if (*fds[i] >= 0) {
      close(*fds[i]);
    }
    *fds[i] = -1;
  }
}

long dma_available(int container) {
  union {
    struct vfio_iommu_type1_info info;
    char bytes[kPage];
  } answer = {.info.argsz = sizeof(answer)};
  if (ioctl(container, VFIO_IOMMU_GET_INFO, &answer)) {
    return -errno;
  }
  for (uint32_t at = answer.info.cap_offset; at && at < sizeof(answer);) {
    const struct vfio_iommu_type1_info_dma_avail* cap = (const void*)(answer.bytes + at);
    if (cap->header.id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
      return cap->avail;
    }
    at = cap->header.next;
  }
  return -ENOENT;
}

int make_eventfd(void) {
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) {
    give_up("eventfd");
  }
  return fd;
}

uint64_t take_signals(int fd) {
  const int error = errno;  // A caller may be about to report another call.
  uint64_t signals = 0;
  if (read(fd, &signals, sizeof(signals)) != sizeof(signals)) {
    signals = 0;
  }
  errno = error;
  return signals;
}

long set_trigger(int device, uint32_t index, int fd) {
  const int32_t payload = fd;
  union irq_set set = {
      .header = {.argsz = sizeof(set.header) + sizeof(payload),
                 .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                 .index = index,
                 .count = 1},
  };
  memcpy(set.header.data, &payload, sizeof(payload));
  return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

uint64_t region_offset(unsigned index) { return (uint64_t)index << 40; }

uint8_t read8(int device, unsigned region, uint64_t offset) {
  uint8_t value = 0;
  if (pread(device, &value, 1, (off_t)(region_offset(region) + offset)) != 1) {
    give_up("pread");
  }
  return value;
}

void write8(int device, unsigned region, uint64_t offset, uint8_t value) {
  if (pwrite(device, &value, 1, (off_t)(region_offset(region) + offset)) != 1) {
    give_up("pwrite");
  }
}

struct holder fork_holder(void) {
  int ends[2];
  if (pipe(ends)) {
    give_up("pipe");
  }
  struct holder holder = {.pid = fork(), .release = ends[1]};
  if (holder.pid < 0) {
    give_up("fork");
  }
  if (!holder.pid) {
    char byte;
    close(ends[1]);
    _exit(read(ends[0], &byte, 1) != 0);
  }
  close(ends[0]);
  return holder;
}

void release_holder(struct holder* holder) {
  close(holder->release);
  if (waitpid(holder->pid, NULL, 0) != holder->pid) {
    give_up("waitpid");
  }
}
