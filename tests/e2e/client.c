#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/serial_reg.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const char kDevices[] = "/sys/bus/mdev/devices";
static const char kTypes[] = "/sys/class/mdev_bus/mtty/mdev_supported_types";

enum { kIova = 0x100000, kDmaSize = 0x10000 };

static bool report(const char* what) {
  fprintf(stderr, "client %d: %s: %s\n", (int)getpid(), what, strerror(errno));
  return false;
}

bool group_path(const char* uuid, char* path, size_t size) {
  char link[PATH_MAX], target[PATH_MAX];
  snprintf(link, sizeof(link), "%s/%s/iommu_group", kDevices, uuid);
  const ssize_t length = readlink(link, target, sizeof(target) - 1);
  if (length < 0) {
    return false;
  }
  target[length] = '\0';
  const char* const slash = strrchr(target, '/');
  return snprintf(path, size, "/dev/vfio/%s", slash ? slash + 1 : target) < (int)size;
}

static bool open_all(struct client* client, const char* uuid) {
  char path[PATH_MAX];
  if (!group_path(uuid, path, sizeof(path))) {
    return report("iommu_group");
  }
  client->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  if (client->container < 0) {
    return report("/dev/vfio/vfio");
  }
  client->group = open(path, O_RDWR | O_CLOEXEC);
  if (client->group < 0) {
    return report(path);
  }
  if (ioctl(client->group, VFIO_GROUP_SET_CONTAINER, &client->container)) {
    return report("SET_CONTAINER");
  }
  if (ioctl(client->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) {
    return report("SET_IOMMU");
  }
  client->device = ioctl(client->group, VFIO_GROUP_GET_DEVICE_FD, uuid);
  return client->device >= 0 || report("GET_DEVICE_FD");
}

bool open_client(struct client* client, const char* uuid) {
  *client = (struct client){.container = -1, .group = -1, .device = -1};
  if (!open_all(client, uuid)) {
    close_client(client);
    return false;
  }
  return true;
}

void close_client(struct client* client) {
  int* const fds[] = {&client->device, &client->group, &client->container};
  for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
    if (*fds[i] >= 0) {
      close(*fds[i]);
    }
    *fds[i] = -1;
  }
}

bool map_dma(int container, void* memory, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map),
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (uintptr_t)memory,
      .iova = iova,
      .size = size,
  };
  return !ioctl(container, VFIO_IOMMU_MAP_DMA, &map) || report("MAP_DMA");
}

bool unmap_dma(int container, uint64_t iova, uint64_t size) {
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = iova, .size = size};
  return !ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap) || report("UNMAP_DMA");
}

bool get_device_info(int device) {
  struct vfio_device_info info = {.argsz = sizeof(info)};
  return !ioctl(device, VFIO_DEVICE_GET_INFO, &info) || report("GET_INFO");
}

bool set_trigger(int device, uint32_t index, int eventfd) {
  const int32_t payload = eventfd;
  union {
    struct vfio_irq_set header;
    char bytes[sizeof(struct vfio_irq_set) + sizeof(payload)];
  } set = {.header = {
               .argsz = sizeof(set.header) + sizeof(payload),
               .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
               .index = index,
               .count = 1,
           }};
  memcpy(set.header.data, &payload, sizeof(payload));
  return !ioctl(device, VFIO_DEVICE_SET_IRQS, &set) || report("SET_IRQS");
}

uint64_t uart_register(unsigned number) { return number; }  // BAR0 is region 0.

static bool write_uart(int device, unsigned number, uint8_t value) {
  return pwrite(device, &value, 1, (off_t)uart_register(number)) == 1 || report("pwrite");
}

static bool read_uart(int device, unsigned number, uint8_t* value) {
  return pread(device, value, 1, (off_t)uart_register(number)) == 1 || report("pread");
}

bool loop_back(int device, uint8_t byte) {
  const struct {
    unsigned number;
    uint8_t value;
  } writes[] = {
      {UART_IER, 0},   {UART_LCR, UART_LCR_WLEN8},
      {UART_MCR, 0},   {UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT},
      {UART_TX, byte},
  };
  for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
    if (!write_uart(device, writes[i].number, writes[i].value)) {
      return false;
    }
  }
  uint8_t status, received;
  if (!read_uart(device, UART_LSR, &status) || !read_uart(device, UART_RX, &received)) {
    return false;
  }
  if (!(status & UART_LSR_DR) || received != byte) {
    fprintf(stderr, "client: sent %#x, line status %#x, received %#x\n", byte, status, received);
    return false;
  }
  return true;
}

static int write_file(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return -1;
  }
  const int result = write(fd, text, strlen(text)) < 0 ? -1 : 0;
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

int create_mdev(const char* type, const char* uuid) {
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s/%s/create", kTypes, type);
  return write_file(path, uuid);
}

int remove_mdev(const char* uuid) {
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s/%s/remove", kDevices, uuid);
  return write_file(path, "1");
}

bool mdev_exists(const char* uuid) {
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s/%s", kDevices, uuid);
  return !access(path, F_OK);
}

bool use_device(const char* uuid) {
  struct client client;
  if (!open_client(&client, uuid)) {
    return false;
  }
  void* const memory =
      mmap(NULL, kDmaSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool passed = memory != MAP_FAILED && get_device_info(client.device) &&
                      map_dma(client.container, memory, kIova, kDmaSize) &&
                      loop_back(client.device, 0x5a) &&
                      unmap_dma(client.container, kIova, kDmaSize);
  munmap(memory, kDmaSize);
  close_client(&client);
  return passed;
}
