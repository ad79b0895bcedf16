// A VFIO program from beginning to end: it finds a mediated serial card (type mtty), opens it,
// sends a line of text through the card's UART, waits for the interrupts and reads the text back.
//
//   serial_loopback [UUID]      the card; else $UVFIO_MDEV; else the first in /sys/bus/mdev/devices
//
// There is nothing of uvfio in it: it uses <linux/vfio.h> and the C library only, and prints the
// same on a kernel with the mtty sample driver as it does under "uvfio run".

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>
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

static const char kDevices[] = "/sys/bus/mdev/devices";
static const char kLine[] = "Hello from user space!";

enum {
  kDmaSize = 1 << 20,
  kDmaAddress = 0x100000,  // Where the device sees the memory. The program chooses.
  kInterruptTimeoutMs = 5000,
};

static _Noreturn void fail(const char* what) {
  fprintf(stderr, "serial_loopback: %s: %s\n", what, strerror(errno));
  exit(EXIT_FAILURE);
}

static _Noreturn void refuse(const char* why) {
  fprintf(stderr, "serial_loopback: %s\n", why);
  exit(EXIT_FAILURE);
}

// ---- 1. Find the device, and the group it belongs to.

static void find_device(int argc, char** argv, char* uuid, size_t size) {
  const char* wanted = argc > 1 ? argv[1] : getenv("UVFIO_MDEV");
  if (wanted && *wanted) {
    snprintf(uuid, size, "%s", wanted);
    return;
  }
  DIR* devices = opendir(kDevices);
  if (!devices) {
    fail(kDevices);
  }
  const struct dirent* entry;
  do {
    entry = readdir(devices);
  } while (entry && entry->d_name[0] == '.');
  if (!entry) {
    refuse("there is no mediated device");
  }
  snprintf(uuid, size, "%s", entry->d_name);
  closedir(devices);
}

// The link <device>/iommu_group leads to a directory named as the group: its number.
static void find_group(const char* uuid, char* path, size_t size) {
  char link[PATH_MAX], target[PATH_MAX];
  snprintf(link, sizeof(link), "%s/%s/iommu_group", kDevices, uuid);
  ssize_t length = readlink(link, target, sizeof(target) - 1);
  if (length < 0) {
    fail(link);
  }
  target[length] = '\0';
  const char* slash = strrchr(target, '/');
  snprintf(path, size, "/dev/vfio/%.*s", NAME_MAX, slash ? slash + 1 : target);
}

// ---- 2. Container, group, IOMMU. A container is an address space for DMA; groups join it.

static int open_container(void) {
  int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
  if (container < 0) {
    fail("/dev/vfio/vfio");
  }
  if (ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION) {
    refuse("unknown VFIO API version");
  }
  if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1) {
    refuse("there is no type1v2 IOMMU");
  }
  return container;
}

static int open_group(const char* path, int container) {
  int group = open(path, O_RDWR | O_CLOEXEC);
  if (group < 0) {
    fail(path);
  }
  struct vfio_group_status status = {.argsz = sizeof(status)};
  if (ioctl(group, VFIO_GROUP_GET_STATUS, &status)) {
    fail("VFIO_GROUP_GET_STATUS");
  }
  if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE)) {
    refuse("the group is not viable: another driver has one of its devices");
  }
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)) {
    fail("VFIO_GROUP_SET_CONTAINER");
  }
  // Only now that a group is in it can the container be given its kind of IOMMU.
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) {
    fail("VFIO_SET_IOMMU");
  }
  return group;
}

// ---- 3. Memory for DMA. A serial card needs none; every other device does.

static void* map_dma_memory(int container) {
  void* memory = mmap(NULL, kDmaSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail("mmap");
  }
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map),
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = (uintptr_t)memory,
      .iova = kDmaAddress,
      .size = kDmaSize,
  };
  if (ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
    fail("VFIO_IOMMU_MAP_DMA");
  }
  printf("DMA memory: %#x bytes at %#llx\n", kDmaSize, (unsigned long long)map.iova);
  return memory;
}

static void unmap_dma_memory(int container, void* memory) {
  struct vfio_iommu_type1_dma_unmap unmap = {
      .argsz = sizeof(unmap), .iova = kDmaAddress, .size = kDmaSize};
  if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap)) {
    fail("VFIO_IOMMU_UNMAP_DMA");
  }
  munmap(memory, kDmaSize);
}

// ---- 4. The device: regions of registers, which are ranges of one file.

struct device {
  int fd;
  uint64_t config;  // Where the PCI configuration space starts in the file,
  uint64_t uart;    // and where BAR0 does, which holds the UART.
};

static uint64_t region_offset(int fd, uint32_t index) {
  struct vfio_region_info info = {.argsz = sizeof(info), .index = index};
  if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &info)) {
    fail("VFIO_DEVICE_GET_REGION_INFO");
  }
  return info.offset;
}

static struct device open_device(int group, const char* uuid) {
  int fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid);
  if (fd < 0) {
    fail("VFIO_GROUP_GET_DEVICE_FD");
  }
  struct vfio_device_info info = {.argsz = sizeof(info)};
  if (ioctl(fd, VFIO_DEVICE_GET_INFO, &info)) {
    fail("VFIO_DEVICE_GET_INFO");
  }
  if (!(info.flags & VFIO_DEVICE_FLAGS_PCI)) {
    refuse("not a PCI device");
  }
  printf("PCI device: %u regions, %u kinds of interrupt\n", info.num_regions, info.num_irqs);
  return (struct device){
      .fd = fd,
      .config = region_offset(fd, VFIO_PCI_CONFIG_REGION_INDEX),
      .uart = region_offset(fd, VFIO_PCI_BAR0_REGION_INDEX),
  };
}

static uint16_t read_config16(const struct device* device, unsigned offset) {
  uint16_t value;
  if (pread(device->fd, &value, sizeof(value), (off_t)(device->config + offset)) != sizeof(value)) {
    fail("read of the configuration space");
  }
  return value;
}

static void check_identity(const struct device* device) {
  const uint16_t vendor = read_config16(device, PCI_VENDOR_ID);
  const uint16_t id = read_config16(device, PCI_DEVICE_ID);
  printf("device %04x:%04x, class %04x\n", vendor, id, read_config16(device, PCI_CLASS_DEVICE));
  if (vendor != 0x4348 || id != 0x3253) {
    refuse("not the serial card that this program knows");
  }
}

static void write_uart(const struct device* device, unsigned reg, uint8_t value) {
  if (pwrite(device->fd, &value, 1, (off_t)(device->uart + reg)) != 1) {
    fail("write to the UART");
  }
}

static uint8_t read_uart(const struct device* device, unsigned reg) {
  uint8_t value;
  if (pread(device->fd, &value, 1, (off_t)(device->uart + reg)) != 1) {
    fail("read from the UART");
  }
  return value;
}

static void set_up_uart(const struct device* device) {
  write_uart(device, UART_IER, 0);
  write_uart(device, UART_LCR, UART_LCR_DLAB);  // The first two registers are the divisor now:
  write_uart(device, UART_DLL, 1);              // 115200 baud.
  write_uart(device, UART_DLM, 0);
  write_uart(device, UART_LCR, UART_LCR_WLEN8);  // 8 data bits, no parity, 1 stop bit.
  write_uart(device, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
  write_uart(device, UART_MCR, 0);
  write_uart(device, UART_IER, UART_IER_RDI);  // Interrupt when a byte has arrived.
}

// ---- 5. Interrupts: the device signals an eventfd.

static void set_irqs(int device, uint32_t flags, uint32_t index, const int32_t* eventfd) {
  // The argument is a header, and the eventfds' numbers behind it.
  union {
    struct vfio_irq_set header;
    char bytes[sizeof(struct vfio_irq_set) + sizeof(int32_t)];
  } set = {.header = {.argsz = sizeof(set.header), .flags = flags, .index = index}};
  if (eventfd) {
    set.header.argsz += sizeof(*eventfd);
    memcpy(set.header.data, eventfd, sizeof(*eventfd));
  }
  // Without data, a trigger of no interrupts turns the whole kind off.
  const uint32_t turn_off = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
  set.header.count = flags == turn_off ? 0 : 1;
  if (ioctl(device, VFIO_DEVICE_SET_IRQS, &set)) {
    fail("VFIO_DEVICE_SET_IRQS");
  }
}

static void wait_for_interrupt(int eventfd) {
  struct pollfd ready = {.fd = eventfd, .events = POLLIN};
  int count = poll(&ready, 1, kInterruptTimeoutMs);
  if (count < 0) {
    fail("poll");
  }
  if (count == 0) {
    refuse("no interrupt came");
  }
  uint64_t signals;
  if (read(eventfd, &signals, sizeof(signals)) != sizeof(signals)) {
    fail("read of the eventfd");
  }
}

// Sends the line byte by byte. The card is a loop: what is sent arrives.
static void send_line(const struct device* device, uint32_t irq_index, const char* irq_name) {
  struct vfio_irq_info info = {.argsz = sizeof(info), .index = irq_index};
  if (ioctl(device->fd, VFIO_DEVICE_GET_IRQ_INFO, &info)) {
    fail("VFIO_DEVICE_GET_IRQ_INFO");
  }
  const int32_t interrupt = eventfd(0, EFD_CLOEXEC);
  if (interrupt < 0) {
    fail("eventfd");
  }
  set_irqs(device->fd, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, irq_index,
           &interrupt);

  char received[sizeof(kLine)] = "";
  unsigned interrupts = 0;
  for (size_t i = 0; kLine[i]; i++) {
    write_uart(device, UART_TX, (uint8_t)kLine[i]);
    wait_for_interrupt(interrupt);
    interrupts++;
    if (!(read_uart(device, UART_LSR) & UART_LSR_DR)) {
      refuse("an interrupt, but no byte");
    }
    received[i] = (char)read_uart(device, UART_RX);
    // An INTx line is masked when it fires, until its handler has made the device quiet. MSI needs
    // no such care.
    if (info.flags & VFIO_IRQ_INFO_AUTOMASKED) {
      set_irqs(device->fd, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, irq_index, NULL);
    }
  }
  set_irqs(device->fd, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, irq_index, NULL);
  close(interrupt);

  printf("%s: sent \"%s\", received \"%s\", %u interrupts\n", irq_name, kLine, received,
         interrupts);
  if (strcmp(received, kLine) != 0) {
    refuse("that is not what was sent");
  }
}

int main(int argc, char** argv) {
  char uuid[NAME_MAX + 1], group_path[PATH_MAX];
  find_device(argc, argv, uuid, sizeof(uuid));
  find_group(uuid, group_path, sizeof(group_path));

  int container = open_container();
  int group = open_group(group_path, container);
  void* memory = map_dma_memory(container);
  struct device device = open_device(group, uuid);

  check_identity(&device);
  set_up_uart(&device);
  send_line(&device, VFIO_PCI_INTX_IRQ_INDEX, "INTx");
  send_line(&device, VFIO_PCI_MSI_IRQ_INDEX, "MSI");
  write_uart(&device, UART_IER, 0);

  unmap_dma_memory(container, memory);
  close(device.fd);
  close(group);
  close(container);
  return EXIT_SUCCESS;
}
