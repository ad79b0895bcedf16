#include "pci_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

#define PCI_DEVICES "/sys/bus/pci/devices"

enum { kMost = 4 };

static const char* alone[kMost];
static const char* shared[kMost];
static const char* busy;
static unsigned num_alone, num_shared;

const char* pci_file(const char* name, const char* file) {
  return text("%s/%s/%s", PCI_DEVICES, name, file);
}

static unsigned long read_number(const char* path) {
  char content[32] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return 0;
  }
  ssize_t length = read(fd, content, sizeof(content) - 1);
  close(fd);
  return length > 0 ? strtoul(content, NULL, 0) : 0;
}

static const char* link_name(const char* path) {
  char target[PATH_MAX];
  ssize_t length = readlink(path, target, sizeof(target) - 1);
  if (length < 0) {
    return "";
  }
  target[length] = '\0';
  return text("%s", strrchr(target, '/') + 1);
}

const char* node_of(const char* name) {
  return text("/dev/vfio/%s", link_name(pci_file(name, "iommu_group")));
}

static bool is_edu(const char* name) {
  return read_number(pci_file(name, "vendor")) == 0x1234 &&
         read_number(pci_file(name, "device")) == 0x11e8 &&
         !strcmp(link_name(pci_file(name, "driver")), "vfio-pci") && !access(node_of(name), F_OK);
}

static int skip_dots(const struct dirent* entry) { return entry->d_name[0] != '.'; }

// Puts the device where it belongs by its company.
static void classify(const char* name) {
  struct dirent** members;
  int count = scandir(pci_file(name, "iommu_group/devices"), &members, skip_dots, alphasort);
  unsigned others = 0;
  bool host_driver = false;
  for (int i = 0; i < count; i++) {
    const char* driver = link_name(pci_file(members[i]->d_name, "driver"));
    others += strcmp(members[i]->d_name, name) != 0;
    host_driver |= *driver && strcmp(driver, "vfio-pci") != 0;
  }
  if (host_driver) {
    busy = text("%s", name);
  } else if (others && num_shared < kMost) {
    shared[num_shared++] = text("%s", name);
  } else if (!others && num_alone < kMost) {
    alone[num_alone++] = text("%s", name);
  }
}

bool find_pci_devices(void) {
  struct dirent** entries;
  int count = scandir(PCI_DEVICES, &entries, skip_dots, alphasort);
  for (int i = 0; i < count; i++) {
    if (is_edu(entries[i]->d_name)) {
      classify(entries[i]->d_name);
    }
  }
  return num_alone >= 2;
}

const char* pci_name(unsigned n) { return alone[n]; }
const char* pci_group_path(unsigned n) { return node_of(alone[n]); }
const char* shared_name(unsigned n) { return n < num_shared ? shared[n] : NULL; }
const char* busy_name(void) { return busy; }

int open_pci_group(unsigned n) {
  int fd = open(pci_group_path(n), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    give_up("open group");
  }
  return fd;
}

int get_pci_device(int group, const char* name) {
  return ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
}

struct vfio open_pci(unsigned n, enum stage stage) {
  struct vfio vfio = {.container = open_container(), .group = open_pci_group(n), .device = -1};
  if (stage >= kAttached && set_container(vfio.group, vfio.container)) {
    give_up("SET_CONTAINER");
  }
  const int type = stage == kType1 ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU;
  if (stage >= kType1 && ioctl(vfio.container, VFIO_SET_IOMMU, type)) {
    give_up("SET_IOMMU");
  }
  if (stage >= kDevice) {
    vfio.device = get_pci_device(vfio.group, pci_name(n));
    if (vfio.device < 0) {
      give_up("GET_DEVICE_FD");
    }
  }
  return vfio;
}

// ---- type1

long map_memory(int container, uint32_t flags, const void* memory, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map), .flags = flags, .vaddr = (uintptr_t)memory, .iova = iova, .size = size};
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

long unmap_memory(int container, uint32_t flags, uint64_t iova, uint64_t* size) {
  struct vfio_iommu_type1_dma_unmap unmap = {
      .argsz = sizeof(unmap), .flags = flags, .iova = iova, .size = *size};
  long result = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
  *size = unmap.size;
  return result;
}

void unmap_all(int container) {
  uint64_t size = 0;
  if (unmap_memory(container, VFIO_DMA_UNMAP_FLAG_ALL, 0, &size)) {
    give_up("UNMAP_DMA ALL");
  }
}

char* make_pages(size_t pages) {
  char* memory =
      mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    give_up("mmap");
  }
  return memory;
}

void limit_locked_memory(size_t pages) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit)) {
    give_up("getrlimit");
  }
  limit.rlim_cur = pages * kPage;
  if (setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capget, &header, data)) {
    give_up("setrlimit");
  }
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  if (syscall(SYS_capset, &header, data)) {
    give_up("capset");
  }
}

// ---- registers

long read_config(int device, uint64_t offset, void* data, size_t size) {
  return pread(device, data, size, (off_t)(region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + offset));
}

long write_config(int device, uint64_t offset, const void* data, size_t size) {
  return pwrite(device, data, size, (off_t)(region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + offset));
}

void set_command(int device, uint16_t command) {
  if (write_config(device, kCommand, &command, sizeof(command)) != sizeof(command)) {
    give_up("command register");
  }
}

uint32_t read_register(int device, uint64_t offset) {
  uint32_t value = 0;
  if (pread(device, &value, sizeof(value), (off_t)offset) != sizeof(value)) {
    give_up("register");
  }
  return value;
}

void write_register(int device, uint64_t offset, uint32_t value) {
  if (pwrite(device, &value, sizeof(value), (off_t)offset) != sizeof(value)) {
    give_up("register");
  }
}

enum {
  kSource = 0x80,
  kDestination = 0x88,
  kCount = 0x90,
  kStart = 0x98,
  kBuffer = 0x40000,
};

static void transfer(int device, uint32_t from, uint32_t to, uint32_t size, uint32_t command) {
  write_register(device, kSource, from);
  write_register(device, kDestination, to);
  write_register(device, kCount, size);
  write_register(device, kStart, command);
  while (read_register(device, kStart) & 1) {
    sched_yield();
  }
}

void device_reads(int device, uint64_t iova, uint32_t buffer, uint32_t size) {
  transfer(device, (uint32_t)iova, kBuffer + buffer, size, 1);
}

void device_writes(int device, uint64_t iova, uint32_t buffer, uint32_t size) {
  transfer(device, kBuffer + buffer, (uint32_t)iova, size, 3);
}
