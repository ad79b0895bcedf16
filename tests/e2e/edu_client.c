// A VFIO program that drives QEMU's educational device (edu): registers, an interrupt by MSI and by INTx, and
// DMA both ways. It knows nothing of uvfio; UVFIO_PCI and UVFIO_GROUP_0 only say where the device is.
// Prints one line for each thing that works. Status 1: something does not.
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  kLiveness = 0x04,
  kFactorial = 0x08,
  kStatus = 0x20,
  kInterruptStatus = 0x24,
  kAcknowledge = 0x64,
  kDmaSource = 0x80,
  kDmaDestination = 0x88,
  kDmaCount = 0x90,
  kDmaCommand = 0x98,
  kBuffer = 0x40000,
};

static int device;
static uint64_t bar, config;

static void die(const char* what) {
  perror(what);
  exit(1);
}
static void check(bool fine, const char* what) {
  printf("%s: %s\n", what, fine ? "yes" : "NO");
  if (!fine) exit(1);
}
static uint64_t read_register(uint64_t at, size_t width) {
  uint64_t value = 0;
  if (pread(device, &value, width, (off_t)(bar + at)) != (ssize_t)width) die("pread");
  return value;
}
static void write_register(uint64_t at, uint64_t value, size_t width) {
  if (pwrite(device, &value, width, (off_t)(bar + at)) != (ssize_t)width) die("pwrite");
}
static void set_irq(uint32_t index, uint32_t action, int fd) {
  struct {
    struct vfio_irq_set set;
    int32_t fd;
  } request = {{.argsz = sizeof request,
                .flags = action | (fd < 0 ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD),
                .index = index,
                .count = fd < 0 && action == VFIO_IRQ_SET_ACTION_TRIGGER ? 0 : 1},
               fd};
  if (ioctl(device, VFIO_DEVICE_SET_IRQS, &request) != 0) die("VFIO_DEVICE_SET_IRQS");
}
static bool signalled(int event) {
  struct pollfd wait = {.fd = event, .events = POLLIN};
  eventfd_t count;
  return poll(&wait, 1, 10000) == 1 && eventfd_read(event, &count) == 0;
}

static void transfer(uint64_t source, uint64_t destination, uint64_t count, uint64_t command, int event) {
  write_register(kDmaSource, source, 8);
  write_register(kDmaDestination, destination, 8);
  write_register(kDmaCount, count, 8);
  write_register(kDmaCommand, command | 1 | 4, 8);
  check(signalled(event), "interrupt after DMA");
  write_register(kAcknowledge, (uint32_t)read_register(kInterruptStatus, 4), 4);
}

int main(void) {
  const char* name = getenv("UVFIO_PCI");
  const char* number = getenv("UVFIO_GROUP_0");
  if (name == NULL || number == NULL) return 2;
  char path[64];
  snprintf(path, sizeof path, "/dev/vfio/%s", number);
  const int container = open("/dev/vfio/vfio", O_RDWR);
  const int group = open(path, O_RDWR);
  if (container < 0 || group < 0) die(path);
  struct vfio_group_status status = {.argsz = sizeof status};
  if (ioctl(group, VFIO_GROUP_GET_STATUS, &status) != 0) die("VFIO_GROUP_GET_STATUS");
  check((status.flags & VFIO_GROUP_FLAGS_VIABLE) != 0, "viable");
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) != 0) die("VFIO_GROUP_SET_CONTAINER");
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) die("VFIO_SET_IOMMU");
  device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
  if (device < 0) die("VFIO_GROUP_GET_DEVICE_FD");

  struct vfio_region_info region = {.argsz = sizeof region, .index = VFIO_PCI_BAR0_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) != 0) die("BAR 0");
  bar = region.offset;
  check(region.size == 1 << 20, "BAR 0 of 1 MiB");
  region.index = VFIO_PCI_CONFIG_REGION_INDEX;
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region) != 0) die("configuration space");
  config = region.offset;
  uint32_t id = 0;
  uint16_t command = 0;
  if (pread(device, &id, 4, (off_t)config) != 4) die("configuration space");
  check(id == 0x11e81234, "1234:11e8");

  check(read_register(0, 4) == 0x010000ed, "identification");
  write_register(kLiveness, 0x1234, 4);
  check(read_register(kLiveness, 4) == 0xffffedcb, "liveness");

  const int event = eventfd(0, EFD_CLOEXEC);
  set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, event);
  write_register(kStatus, 0x80, 4);
  write_register(kFactorial, 7, 4);
  check(signalled(event), "INTx after a factorial");
  check(read_register(kFactorial, 4) == 5040, "7! = 5040");
  write_register(kAcknowledge, 1, 4);
  set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, -1);
  set_irq(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, -1);

  uint8_t* const memory =
      mmap(NULL, 0x200000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map,
                                         .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                         .vaddr = (uintptr_t)memory,
                                         .iova = 0x400000,
                                         .size = 0x200000};
  if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map) != 0) die("VFIO_IOMMU_MAP_DMA");
  for (int i = 0; i < 4096; ++i) memory[i] = (uint8_t)(i * 7);
  set_irq(VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, event);
  if (pread(device, &command, 2, (off_t)config + PCI_COMMAND) != 2) die("command");
  command |= PCI_COMMAND_MASTER;
  if (pwrite(device, &command, 2, (off_t)config + PCI_COMMAND) != 2) die("command");
  transfer(0x400000, kBuffer, 4096, 0, event);
  transfer(kBuffer, 0x400000 + 0x1000, 4096, 2, event);
  check(memcmp(memory, memory + 0x1000, 4096) == 0, "DMA there and back");
  return 0;
}
