// The device fd: what it is, its regions and interrupts, and the calls on it that every device
// shares.

#include <errno.h>
#include <linux/serial_reg.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

static const char* describe_device(const void* argument) {
  const struct vfio_device_info* info = argument;
  return text("argsz=%#x flags=%#x regions=%#x irqs=%#x", info->argsz, info->flags,
              info->num_regions, info->num_irqs);
}

static void get_info(void) {
  struct vfio vfio = open_vfio(kDevice);
  const struct vfio_device_info info = {
      .argsz = 0, .flags = 0xffffffff, .num_regions = 0xffffffff, .num_irqs = 0xffffffff};
  const size_t minsz = offsetof(struct vfio_device_info, num_irqs) + sizeof(info.num_irqs);
  check_argsz("info", vfio.device, VFIO_DEVICE_GET_INFO, &info, minsz, sizeof(info),
              describe_device);
  struct vfio_device_info good = {.argsz = (uint32_t)minsz};
  check_pointers("info", vfio.device, VFIO_DEVICE_GET_INFO, &good, minsz);
}

static const char* describe_region(const void* argument) {
  const struct vfio_region_info* info = argument;
  return text("argsz=%#x flags=%#x index=%#x cap_offset=%#x size=%#llx offset=%#llx", info->argsz,
              info->flags, info->index, info->cap_offset, (unsigned long long)info->size,
              (unsigned long long)info->offset);
}

static void region_info(void) {
  struct vfio vfio = open_vfio(kDevice);
  const uint32_t indexes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x100, 0xffffffff};
  for (size_t i = 0; i < ARRAY_SIZE(indexes); i++) {
    struct vfio_region_info info = {.argsz = sizeof(info), .index = indexes[i]};
    long result = ioctl(vfio.device, VFIO_DEVICE_GET_REGION_INFO, &info);
    check_out(text("index.%#x", indexes[i]), result, "%s", describe_region(&info));
  }
  // What the caller left in the fields that are only written.
  struct vfio_region_info dirty = {.argsz = sizeof(dirty),
                                   .flags = 0xffffffff,
                                   .index = VFIO_PCI_CONFIG_REGION_INDEX,
                                   .cap_offset = 0xffffffff,
                                   .size = ~0ull,
                                   .offset = ~0ull};
  long result = ioctl(vfio.device, VFIO_DEVICE_GET_REGION_INFO, &dirty);
  check_out("overwritten", result, "%s", describe_region(&dirty));

  struct vfio_region_info info = {.argsz = sizeof(info), .index = VFIO_PCI_CONFIG_REGION_INDEX};
  check_argsz("config", vfio.device, VFIO_DEVICE_GET_REGION_INFO, &info, sizeof(info), sizeof(info),
              describe_region);
  check_pointers("config", vfio.device, VFIO_DEVICE_GET_REGION_INFO, &info, sizeof(info));
  info.index = 100;
  check_argsz("bad_index", vfio.device, VFIO_DEVICE_GET_REGION_INFO, &info, sizeof(info),
              sizeof(info), NULL);
}

static const char* describe_irq(const void* argument) {
  const struct vfio_irq_info* info = argument;
  return text("argsz=%#x flags=%#x index=%#x count=%#x", info->argsz, info->flags, info->index,
              info->count);
}

static void irq_info(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_device_info device = {.argsz = sizeof(device)};
  check("get_info", ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &device));
  const uint32_t indexes[] = {0, 1, 2, 3, 4, 5, 6, 0xffffffff};
  for (size_t i = 0; i < ARRAY_SIZE(indexes); i++) {
    struct vfio_irq_info info = {.argsz = sizeof(info), .index = indexes[i], .flags = 0x100};
    long result = ioctl(vfio.device, VFIO_DEVICE_GET_IRQ_INFO, &info);
    check_out(text("index.%#x", indexes[i]), result, "%s", describe_irq(&info));
  }
  const struct vfio_irq_info info = {.argsz = sizeof(info), .index = VFIO_PCI_INTX_IRQ_INDEX};
  check_argsz("intx", vfio.device, VFIO_DEVICE_GET_IRQ_INFO, &info, sizeof(info), sizeof(info),
              describe_irq);
  check_pointers("intx", vfio.device, VFIO_DEVICE_GET_IRQ_INFO, &info, sizeof(info));
}

static void ioctl_numbers(void) {
  struct vfio vfio = open_vfio(kDevice);
  // BIND_IOMMUFD depends on whether the kernel was built with device cdevs.
  check_ioctl_numbers("device", vfio.device, _IOC_NR(VFIO_DEVICE_BIND_IOMMUFD));
}

// A plain card has no use for these.
static void other_ioctls(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_pci_hot_reset_info hot_reset = {.argsz = sizeof(hot_reset)};
  check("hot_reset_info", ioctl(vfio.device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &hot_reset));
  struct vfio_pci_hot_reset reset = {.argsz = sizeof(reset)};
  check("hot_reset", ioctl(vfio.device, VFIO_DEVICE_PCI_HOT_RESET, &reset));
  struct vfio_device_gfx_plane_info plane = {.argsz = sizeof(plane),
                                             .flags = VFIO_GFX_PLANE_TYPE_PROBE};
  check("gfx_plane", ioctl(vfio.device, VFIO_DEVICE_QUERY_GFX_PLANE, &plane));
  uint32_t id = 1;
  check("gfx_dmabuf", ioctl(vfio.device, VFIO_DEVICE_GET_GFX_DMABUF, &id));
  struct vfio_device_ioeventfd ioeventfd = {.argsz = sizeof(ioeventfd), .flags = 1, .fd = -1};
  check("ioeventfd", ioctl(vfio.device, VFIO_DEVICE_IOEVENTFD, &ioeventfd));
  struct vfio_device_attach_iommufd_pt attach = {.argsz = sizeof(attach)};
  check("attach_iommufd", ioctl(vfio.device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach));
  struct vfio_device_detach_iommufd_pt detach = {.argsz = sizeof(detach)};
  check("detach_iommufd", ioctl(vfio.device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach));
}

static void reset(void) {
  struct vfio vfio = open_vfio(kDevice);
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check("with_argument", ioctl(vfio.device, VFIO_DEVICE_RESET, -1L));
  check("again", ioctl(vfio.device, VFIO_DEVICE_RESET));
}

// Where a read or write may start and end. Regions without size are left alone: the kernel's own
// sample has no bounds there. Only what comes back is reported, as registers have their own
// section.
static void positions(void) {
  struct vfio vfio = open_vfio(kDevice);
  const uint64_t config = region_offset(VFIO_PCI_CONFIG_REGION_INDEX);
  const struct {
    const char* name;
    uint64_t offset;
    size_t length;
  } rows[] = {
      {"bar0.1", 0, 1},
      {"bar0.2", 0, 2},
      {"bar0.4", 0, 4},
      {"bar0.8", 0, 8},
      {"bar0.last", 7, 1},
      {"bar0.odd_length", 1, 7},
      {"bar0.none", 0, 0},
      {"config.1", config, 1},
      {"config.2", config, 2},
      {"config.3", config, 3},
      {"config.4", config, 4},
      {"config.8", config, 8},
      {"config.64", config, 64},
      {"config.all", config, 255},
      {"config.last", config + 254, 1},
      {"config.odd", config + 1, 6},
      {"config.none", config, 0},
      {"config.none_at_end", config + 255, 0},
      {"rom.1", region_offset(VFIO_PCI_ROM_REGION_INDEX), 1},
      {"rom.4", region_offset(VFIO_PCI_ROM_REGION_INDEX), 4},
      {"rom.none", region_offset(VFIO_PCI_ROM_REGION_INDEX), 0},
      {"vga.1", region_offset(VFIO_PCI_VGA_REGION_INDEX), 1},
      {"vga.0xa0000", region_offset(VFIO_PCI_VGA_REGION_INDEX) + 0xa0000, 4},
      {"beyond.9", region_offset(9), 1},
      {"beyond.0x1000", region_offset(0x1000), 1},
      {"beyond.last", INT64_MAX, 1},
      {"beyond.negative", UINT64_MAX, 1},
      {"beyond.none", region_offset(9), 0},
  };
  char buffer[512] = {0};
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    check(text("pread.%s", rows[i].name),
          pread(vfio.device, buffer, rows[i].length, (off_t)rows[i].offset));
  }
  const struct {
    const char* name;
    uint64_t offset;
    size_t length;
  } writes[] = {
      {"bar0.scratch", 7, 1},
      {"bar0.line_control_and_on", 3, 1},
      {"bar0.none", 0, 0},
      {"config.vendor", config, 2},
      {"config.command", config + 4, 2},
      {"config.command_and_status", config + 4, 4},
      {"config.line", config + 0x3c, 1},
      {"config.beyond_header", config + 0x80, 64},
      {"config.last", config + 254, 1},
      {"rom.1", region_offset(VFIO_PCI_ROM_REGION_INDEX), 1},
      {"vga.1", region_offset(VFIO_PCI_VGA_REGION_INDEX), 1},
      {"beyond.9", region_offset(9), 1},
      {"beyond.none", region_offset(9), 0},
      {"beyond.negative", UINT64_MAX, 1},
  };
  memset(buffer, 0, sizeof(buffer));
  for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
    check(text("pwrite.%s", writes[i].name),
          pwrite(vfio.device, buffer, writes[i].length, (off_t)writes[i].offset));
  }
}

static void buffers(void) {
  struct vfio vfio = open_vfio(kDevice);
  char* pages = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || munmap(pages + kPage, kPage)) {
    give_up("mmap");
  }
  char* const hole = pages + kPage;
  const off_t config = (off_t)region_offset(VFIO_PCI_CONFIG_REGION_INDEX);
  const off_t scratch = 7;
  const struct {
    const char* name;
    void* address;
    size_t length;
  } rows[] = {
      {"null", NULL, 4},
      {"null_none", NULL, 0},
      {"unmapped", hole, 4},
      {"unmapped_none", hole, 0},
      {"straddling", hole - 2, 4},
      {"straddling_after_two", hole - 8, 16},
      {"kernel", (void*)0xffff888000000000, 4},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    check(text("pread.%s", rows[i].name),
          pread(vfio.device, rows[i].address, rows[i].length, config));
  }
  check("pwrite.null", pwrite(vfio.device, null_pointer, 1, scratch));
  check("pwrite.unmapped", pwrite(vfio.device, hole, 1, scratch));
  check("pwrite.kernel", pwrite(vfio.device, (void*)0xffff888000000000, 1, scratch));
  if (mprotect(pages, kPage, PROT_READ)) {
    give_up("mprotect");
  }
  check("pread.readonly", pread(vfio.device, pages, 4, config));
  check("pwrite.readonly", pwrite(vfio.device, pages, 1, scratch));
}

// read() and write() use the file's position, which starts at region 0.
static void file_position(void) {
  struct vfio vfio = open_vfio(kDevice);
  uint8_t byte = 0x42;
  write8(vfio.device, 0, UART_SCR, 0x42);
  check("lseek.start", lseek(vfio.device, 0, SEEK_SET));
  check("lseek.current", lseek(vfio.device, 0, SEEK_CUR));
  check("lseek.config",
        lseek(vfio.device, (off_t)region_offset(VFIO_PCI_CONFIG_REGION_INDEX), SEEK_SET));
  for (int i = 0; i < 7; i++) {
    check(text("read.%d", i), read(vfio.device, &byte, 1));
  }
  long result = read(vfio.device, &byte, 1);
  check_out("read.7", result, "value=%#x", byte);
}

static void mapping(void) {
  struct vfio vfio = open_vfio(kDevice);
  const struct {
    const char* name;
    int flags;
    uint64_t offset;
  } rows[] = {
      {"bar0.shared", MAP_SHARED, 0},
      {"bar0.private", MAP_PRIVATE, 0},
      {"config.shared", MAP_SHARED, region_offset(VFIO_PCI_CONFIG_REGION_INDEX)},
      {"beyond.shared", MAP_SHARED, region_offset(9)},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    void* map = mmap(NULL, kPage, PROT_READ | PROT_WRITE, rows[i].flags, vfio.device,
                     (off_t)rows[i].offset);
    check(rows[i].name, map == MAP_FAILED ? -1 : 0);
  }
}

static void other_calls(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct pollfd poll_device = {.fd = vfio.device, .events = POLLIN | POLLOUT};
  long result = poll(&poll_device, 1, 0);
  check_out("poll", result, "revents=%#x", (unsigned)poll_device.revents);
  check("ftruncate", ftruncate(vfio.device, 0));
  check("fsync", fsync(vfio.device));

  const char* prefix = "vfio-device-syspath:";
  FILE* fdinfo = fopen(text("/proc/self/fdinfo/%d", vfio.device), "r");
  char line[512];
  const char* syspath = "none";
  while (fdinfo && fgets(line, sizeof(line), fdinfo)) {
    if (!strncmp(line, prefix, strlen(prefix))) {
      char* uuid = strstr(line, device_name());
      if (uuid) {
        strcpy(uuid, "UUID");
      }
      syspath = line + strlen(prefix) + 1;
    }
  }
  check_value("fdinfo.syspath", "%s", syspath);
}

static const struct test_case kCases[] = {
    {"get_info", get_info},           {"region_info", region_info},
    {"irq_info", irq_info},           {"ioctl_numbers", ioctl_numbers},
    {"other_ioctls", other_ioctls},   {"reset", reset},
    {"positions", positions},         {"buffers", buffers},
    {"file_position", file_position}, {"mmap", mapping},
    {"other_calls", other_calls},
};

const struct section device_section = {
    .name = "device",
    .summary = "the device's regions, interrupts and file calls",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
