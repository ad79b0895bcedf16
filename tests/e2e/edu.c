#include "edu.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PCI_DEVICES "/sys/bus/pci/devices"

enum {
  kDmaSource = 0x80,
  kDmaDestination = 0x88,
  kDmaCount = 0x90,
  kDmaCommand = 0x98,
  kBuffer = 0x40000,

  kDmaStart = 1,
  kDmaToMemory = 2,
  kDmaInterrupt = 4,
};

void die(const char* what) {
  perror(what);
  exit(1);
}

// ---- Finding it

static unsigned long number_in(const char* name, const char* attribute) {
  char path[PATH_MAX], text[32] = "";
  snprintf(path, sizeof path, PCI_DEVICES "/%s/%s", name, attribute);
  FILE* const file = fopen(path, "re");
  if (file == NULL) return 0;
  if (fgets(text, sizeof text, file) == NULL) text[0] = '\0';
  fclose(file);
  return strtoul(text, NULL, 0);
}

// The last component of what a link of the device's directory points to; "" if there is no link.
static void link_target(const char* name, const char* link, char target[PATH_MAX]) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, PCI_DEVICES "/%s/%s", name, link);
  const ssize_t length = readlink(path, target, PATH_MAX - 1);
  target[length < 0 ? 0 : length] = '\0';
  const char* const slash = strrchr(target, '/');
  if (slash != NULL) memmove(target, slash + 1, strlen(slash));
}

static int not_hidden(const struct dirent* entry) { return entry->d_name[0] != '.'; }

static int count_entries(const char* name, const char* directory) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, PCI_DEVICES "/%s/%s", name, directory);
  struct dirent** entries;
  const int count = scandir(path, &entries, not_hidden, NULL);
  for (int i = 0; i < count; ++i) free(entries[i]);
  if (count >= 0) free(entries);
  return count;
}

const char* edu_find(void) {
  static char found[NAME_MAX + 1];
  char driver[PATH_MAX];
  found[0] = '\0';
  struct dirent** entries;
  const int count = scandir(PCI_DEVICES, &entries, not_hidden, alphasort);
  for (int i = 0; i < count; ++i) {
    const char* const name = entries[i]->d_name;
    link_target(name, "driver", driver);
    if (found[0] == '\0' && number_in(name, "vendor") == 0x1234 && number_in(name, "device") == 0x11e8 &&
        strcmp(driver, "vfio-pci") == 0 && count_entries(name, "iommu_group/devices") == 1) {
      snprintf(found, sizeof found, "%s", name);
    }
    free(entries[i]);
  }
  if (count >= 0) free(entries);
  return found[0] == '\0' ? NULL : found;
}

// ---- Opening it

int edu_open_node(const char* name) {
  char number[PATH_MAX], path[64];
  link_target(name, "iommu_group", number);
  snprintf(path, sizeof path, "/dev/vfio/%.16s", number);
  return open(path, O_RDWR | O_CLOEXEC);
}

struct edu edu_open_group(const char* name) {
  struct edu edu = {.container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), .group = -1, .device = -1, .event = -1};
  if (edu.container < 0) die("/dev/vfio/vfio");
  edu.group = edu_open_node(name);
  if (edu.group < 0) die("the group's node");
  return edu;
}

bool edu_is_viable(const struct edu* edu) {
  struct vfio_group_status status = {.argsz = sizeof status};
  if (ioctl(edu->group, VFIO_GROUP_GET_STATUS, &status) != 0) die("VFIO_GROUP_GET_STATUS");
  return (status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0;
}

void edu_attach(struct edu* edu) {
  if (ioctl(edu->group, VFIO_GROUP_SET_CONTAINER, &edu->container) != 0) die("VFIO_GROUP_SET_CONTAINER");
  if (ioctl(edu->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) die("VFIO_SET_IOMMU");
}

static uint64_t region(const struct edu* edu, uint32_t index, uint64_t at_least) {
  struct vfio_region_info info = {.argsz = sizeof info, .index = index};
  if (ioctl(edu->device, VFIO_DEVICE_GET_REGION_INFO, &info) != 0) die("VFIO_DEVICE_GET_REGION_INFO");
  if (info.size < at_least) {
    fprintf(stderr, "region %u has only %llu bytes\n", index, (unsigned long long)info.size);
    exit(1);
  }
  return info.offset;
}

void edu_find_regions(struct edu* edu) {
  edu->bar = region(edu, VFIO_PCI_BAR0_REGION_INDEX, 1 << 20);
  edu->config = region(edu, VFIO_PCI_CONFIG_REGION_INDEX, PCI_STD_HEADER_SIZEOF);
}

void edu_open_device(struct edu* edu, const char* name) {
  edu->device = ioctl(edu->group, VFIO_GROUP_GET_DEVICE_FD, name);
  if (edu->device < 0) die("VFIO_GROUP_GET_DEVICE_FD");
  edu_find_regions(edu);
}

struct edu edu_open(const char* name) {
  struct edu edu = edu_open_group(name);
  edu_attach(&edu);
  edu_open_device(&edu, name);
  edu_enable_dma(&edu);
  return edu;
}

void edu_close(struct edu* edu) {
  int* const fds[] = {&edu->event, &edu->device, &edu->group, &edu->container};
  for (size_t i = 0; i < sizeof fds / sizeof fds[0]; ++i) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
}

// ---- Registers and interrupts

uint64_t edu_read(const struct edu* edu, uint64_t reg, size_t width) {
  uint64_t value = 0;
  if (pread(edu->device, &value, width, (off_t)(edu->bar + reg)) != (ssize_t)width) die("pread");
  return value;
}

void edu_write(const struct edu* edu, uint64_t reg, uint64_t value, size_t width) {
  if (pwrite(edu->device, &value, width, (off_t)(edu->bar + reg)) != (ssize_t)width) die("pwrite");
}

void edu_set_irq(const struct edu* edu, uint32_t index, uint32_t action, int fd) {
  struct {
    struct vfio_irq_set set;
    int32_t fd;
  } request = {{.argsz = sizeof request,
                .flags = action | (fd < 0 ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD),
                .index = index,
                .count = fd < 0 && action == VFIO_IRQ_SET_ACTION_TRIGGER ? 0 : 1},
               fd};
  if (ioctl(edu->device, VFIO_DEVICE_SET_IRQS, &request) != 0) die("VFIO_DEVICE_SET_IRQS");
}

bool edu_interrupt_came(const struct edu* edu) {
  struct pollfd wait = {.fd = edu->event, .events = POLLIN};
  eventfd_t count;
  return poll(&wait, 1, 10000) == 1 && eventfd_read(edu->event, &count) == 0;
}

// ---- DMA

void edu_enable_dma(struct edu* edu) {
  edu->event = eventfd(0, EFD_CLOEXEC);
  if (edu->event < 0) die("eventfd");
  edu_set_irq(edu, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, edu->event);
  uint16_t command = 0;
  const off_t at = (off_t)edu->config + PCI_COMMAND;
  if (pread(edu->device, &command, 2, at) != 2) die("command register");
  command |= PCI_COMMAND_MASTER;
  if (pwrite(edu->device, &command, 2, at) != 2) die("command register");
}

static bool transfer(const struct edu* edu, uint64_t from, uint64_t to, size_t size, uint64_t direction) {
  edu_write(edu, kDmaSource, from, 8);
  edu_write(edu, kDmaDestination, to, 8);
  edu_write(edu, kDmaCount, size, 8);
  edu_write(edu, kDmaCommand, kDmaStart | direction | kDmaInterrupt, 8);
  if (!edu_interrupt_came(edu)) return false;
  edu_write(edu, kEduAcknowledge, edu_read(edu, kEduInterruptStatus, 4), 4);
  return true;
}

bool edu_fetch(const struct edu* edu, uint64_t iova, size_t size) { return transfer(edu, iova, kBuffer, size, 0); }

bool edu_store(const struct edu* edu, uint64_t iova, size_t size) {
  return transfer(edu, kBuffer, iova, size, kDmaToMemory);
}

long edu_map(const struct edu* edu, uint32_t flags, const void* memory, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof map,
      .flags = flags != 0 ? flags : VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (uintptr_t)memory,
      .iova = iova,
      .size = size};
  return ioctl(edu->container, VFIO_IOMMU_MAP_DMA, &map);
}

int64_t edu_unmap(const struct edu* edu, uint32_t flags, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .flags = flags, .iova = iova, .size = size};
  return ioctl(edu->container, VFIO_IOMMU_UNMAP_DMA, &unmap) == 0 ? (int64_t)unmap.size : -1;
}
