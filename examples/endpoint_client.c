// Drives the endpoint test function (devices/endpoint) through plain VFIO; docs/write-a-device.md
// explains it.
//
//   uvfio run --pci endpoint -- endpoint_client [STEP]
//
// STEP: the step of the tutorial after which it ends.
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
  kMagic = 0x00,
  kCommand = 0x04,
  kStatus = 0x08,
  kSource = 0x0c,
  kDestination = 0x14,
  kSize = 0x1c,
  kNumber = 0x28
};
enum { kRaiseMsix = 1 << 2, kCopy = 1 << 5 };

static int check(int result, const char* what) {
  if (result >= 0) return result;
  perror(what);
  exit(EXIT_FAILURE);
}

static int device;
static off_t bar0;

static off_t region(uint32_t index) {
  struct vfio_region_info info = {.argsz = sizeof info, .index = index};
  check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info), "VFIO_DEVICE_GET_REGION_INFO");
  return (off_t)info.offset;
}
static void set(off_t at, uint32_t value) {
  check((int)pwrite(device, &value, 4, bar0 + at), "pwrite");
}
static uint32_t get(off_t at) {
  uint32_t value = 0;
  check((int)pread(device, &value, 4, bar0 + at), "pread");
  return value;
}

// How many interrupts came since the last call; at least one has to.
static int interrupts(int event) {
  struct pollfd wait = {.fd = event, .events = POLLIN};
  eventfd_t count = 0;
  if (poll(&wait, 1, 10000) != 1 || eventfd_read(event, &count) != 0) {
    fprintf(stderr, "no interrupt came\n");
    exit(EXIT_FAILURE);
  }
  return (int)count;
}

int main(int argc, char** argv) {
  const int last = argc > 1 ? atoi(argv[1]) : 4;
  const char* name = getenv("UVFIO_PCI_0");
  const char* number = getenv("UVFIO_GROUP_0");
  if (name == NULL || number == NULL) {
    fprintf(stderr, "UVFIO_PCI_0 and UVFIO_GROUP_0 are not set: see `uvfio run --pci`\n");
    return EXIT_FAILURE;
  }

  // The device: from its group, once that is in a container with an IOMMU.
  char path[64];
  snprintf(path, sizeof path, "/dev/vfio/%s", number);
  const int container = check(open("/dev/vfio/vfio", O_RDWR), "/dev/vfio/vfio");
  const int group = check(open(path, O_RDWR), path);
  check(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
  check(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
  device = check(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name), "VFIO_GROUP_GET_DEVICE_FD");

  // Registers.
  bar0 = region(VFIO_PCI_BAR0_REGION_INDEX);
  set(kMagic, 0xa0a0a0a0);
  printf("magic %#x\n", get(kMagic));
  if (last == 2) return EXIT_SUCCESS;

  // Leave to be bus master. Without it the device has neither DMA nor MSI-X, whose messages are
  // memory writes.
  const uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
  const off_t config = region(VFIO_PCI_CONFIG_REGION_INDEX);
  check((int)pwrite(device, &command, 2, config + PCI_COMMAND), "pwrite");

  // An interrupt: MSI-X vector 0 signals an eventfd.
  const int event = check(eventfd(0, 0), "eventfd");
  struct {
    struct vfio_irq_set set;
    int32_t fd;
  } irq = {{.argsz = sizeof irq,
            .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            .index = VFIO_PCI_MSIX_IRQ_INDEX,
            .count = 1},
           event};
  check(ioctl(device, VFIO_DEVICE_SET_IRQS, &irq), "VFIO_DEVICE_SET_IRQS");
  set(kNumber, 1);
  set(kCommand, kRaiseMsix);
  printf("interrupts %d, ", interrupts(event));
  printf("status %#x\n", get(kStatus));
  if (last == 3) return EXIT_SUCCESS;

  // DMA: two pages of this program, which the device finds at 0x100000.
  char* const memory =
      mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map,
                                         .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                         .vaddr = (uintptr_t)memory,
                                         .iova = 0x100000,
                                         .size = 0x2000};
  if (memory == MAP_FAILED) return EXIT_FAILURE;
  check(ioctl(container, VFIO_IOMMU_MAP_DMA, &map), "VFIO_IOMMU_MAP_DMA");

  strcpy(memory, "hello");
  set(kSource, 0x100000);
  set(kDestination, 0x101000);
  set(kSize, 6);
  set(kCommand, kCopy);
  interrupts(event);
  printf("copied \"%s\", status %#x\n", memory + 0x1000, get(kStatus));

  // A mistake: the device is told to read where nothing is mapped.
  set(kSource, 0xbad000);
  set(kCommand, kCopy);
  interrupts(event);
  printf("copied nothing, status %#x\n", get(kStatus));
  return EXIT_SUCCESS;
}
