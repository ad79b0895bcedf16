// vfio-pci on an educational device: what it says of itself, its registers, its configuration
// space.

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "feature.h"
#include "pci_fixture.h"

enum {
  kIdentification = 0,
  kLiveness = 4,
  kBarSize = 1 << 20,
  kConfigSize = 256,
};

static int open_device(void) { return open_pci(0, kDevice).device; }

static const char* describe_device(const void* argument) {
  const struct vfio_device_info* info = argument;
  return text("argsz=%u flags=%#x regions=%u irqs=%u", info->argsz, info->flags, info->num_regions,
              info->num_irqs);
}

static const char* describe_region(const void* argument) {
  const struct vfio_region_info* info = argument;
  return text("argsz=%u flags=%#x cap=%u size=%#llx offset=%#llx", info->argsz, info->flags,
              info->cap_offset, (unsigned long long)info->size, (unsigned long long)info->offset);
}

static const char* describe_irq(const void* argument) {
  const struct vfio_irq_info* info = argument;
  return text("argsz=%u flags=%#x count=%u", info->argsz, info->flags, info->count);
}

static void info(void) {
  const int d = open_device();
  char bytes[64] = "";
  struct vfio_device_info info = {.argsz = sizeof(bytes)};
  memcpy(bytes, &info, sizeof(info));
  check_argsz("device", d, VFIO_DEVICE_GET_INFO, bytes, 16, sizeof(bytes), describe_device);
  check_pointers("device", d, VFIO_DEVICE_GET_INFO, bytes, sizeof(bytes));
  for (unsigned index = 0; index <= 11; index++) {
    struct vfio_region_info region = {.argsz = sizeof(region), .index = index};
    long result = ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &region);
    check_out(text("region.%u", index), result, "%s", describe_region(&region));
  }
  struct vfio_region_info region = {.argsz = sizeof(region)};
  check_argsz("region", d, VFIO_DEVICE_GET_REGION_INFO, &region, sizeof(region), sizeof(region),
              describe_region);
  check_pointers("region", d, VFIO_DEVICE_GET_REGION_INFO, &region, sizeof(region));
  for (unsigned index = 0; index <= 6; index++) {
    struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = index};
    long result = ioctl(d, VFIO_DEVICE_GET_IRQ_INFO, &irq);
    check_out(text("irq.%u", index), result, "%s", describe_irq(&irq));
  }
  struct vfio_irq_info irq = {.argsz = sizeof(irq)};
  check_argsz("irq", d, VFIO_DEVICE_GET_IRQ_INFO, &irq, sizeof(irq), sizeof(irq), describe_irq);
  check_pointers("irq", d, VFIO_DEVICE_GET_IRQ_INFO, &irq, sizeof(irq));
}

static void other_ioctls(void) {
  const int d = open_device();
  check("reset", ioctl(d, VFIO_DEVICE_RESET));
  for (unsigned number = 0; number <= 24; number++) {
    check(text("nr.%u", number), ioctl(d, _IO(VFIO_TYPE, VFIO_BASE + number), 0));
  }
}

static void hot_reset(void) {
  const int d = open_device();
  static const uint32_t kSizes[] = {0, 8, 11, 12, 19, 20, 64, 256};
  for (size_t i = 0; i < ARRAY_SIZE(kSizes); i++) {
    union {
      struct vfio_pci_hot_reset_info info;
      char bytes[256];
    } answer = {.info = {.argsz = kSizes[i]}};
    long result = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &answer);
    check_out(text("info.%u", kSizes[i]), result, "flags=%#x count=%u", answer.info.flags,
              answer.info.count);
  }
  union {
    struct vfio_pci_hot_reset reset;
    char bytes[64];
  } reset = {.reset = {.argsz = sizeof(reset)}};
  check("reset.none", ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, &reset));
  reset.reset.count = 1;
  check("reset.bad_group", ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, &reset));
  reset.reset.flags = 1;
  check("reset.flags", ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, &reset));
}

static void features(void) {
  const int d = open_device();
  static const struct {
    const char* name;
    uint32_t flags;
  } ways[] = {{"probe", kProbe},
              {"probe_get", kProbe | kGet},
              {"probe_set", kProbe | kSet},
              {"probe_both", kProbe | kGet | kSet},
              {"get", kGet},
              {"set", kSet},
              {"both", kGet | kSet},
              {"none", 0},
              {"unknown", kProbe | 1u << 19}};
  for (uint32_t number = 0; number <= 14; number++) {
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
      // Without a payload: none of it comes as far as doing something.
      struct vfio_device_feature feature = {.argsz = sizeof(feature),
                                            .flags = ways[i].flags | number};
      check(text("%u.%s", number, ways[i].name), ioctl(d, VFIO_DEVICE_FEATURE, &feature));
    }
  }
}

static void ioeventfd(void) {
  const int d = open_device();
  const int fd = make_eventfd();
  const uint64_t config = region_offset(VFIO_PCI_CONFIG_REGION_INDEX);
  const struct {
    const char* name;
    uint32_t argsz, flags;
    uint64_t offset, data;
    int32_t fd;
  } rows[] = {
      {"argsz", 31, 4, 0x10, 1, fd},
      {"argsz_28", 28, 4, 0x10, 2, fd},
      {"flags.none", 32, 0, 0x10, 1, fd},
      {"flags.two", 32, 6, 0x10, 1, fd},
      {"flags.unknown", 32, 20, 0x10, 1, fd},
      {"minus_two", 32, 4, 0x10, 1, -2},
      {"not_open", 32, 4, 0x10, 1, 1000},
      {"not_eventfd", 32, 4, 0x10, 1, STDOUT_FILENO},
      {"remove_nothing", 32, 4, 0x10, 1, -1},
      {"set", 32, 4, 0x10, 1, fd},
      {"set_again", 32, 4, 0x10, 1, fd},
      {"set_other_data", 32, 4, 0x10, 3, fd},
      {"remove_other_size", 32, 2, 0x10, 1, -1},
      {"remove", 32, 4, 0x10, 1, -1},
      {"remove_again", 32, 4, 0x10, 1, -1},
      {"eight", 32, 8, 0x80, 1, fd},
      {"eight.remove", 32, 8, 0x80, 1, -1},
      {"unaligned", 32, 4, 0x11, 1, fd},
      {"last", 32, 4, kBarSize - 4, 1, fd},
      {"across_end", 32, 4, kBarSize - 2, 1, fd},
      {"beyond", 32, 4, kBarSize, 1, fd},
      {"bar_1", 32, 4, region_offset(1), 1, fd},
      {"rom", 32, 4, region_offset(6), 1, fd},
      {"config", 32, 4, config, 1, fd},
      {"region_9", 32, 4, region_offset(9), 1, fd},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    struct vfio_device_ioeventfd argument = {.argsz = rows[i].argsz,
                                             .flags = rows[i].flags,
                                             .offset = rows[i].offset,
                                             .data = rows[i].data,
                                             .fd = rows[i].fd};
    check(rows[i].name, ioctl(d, VFIO_DEVICE_IOEVENTFD, &argument));
  }
  // It writes: the liveness register answers with the inverse.
  set_command(d, kCommandMemory);
  struct vfio_device_ioeventfd write_it = {.argsz = sizeof(write_it),
                                           .flags = VFIO_DEVICE_IOEVENTFD_32,
                                           .offset = kLiveness,
                                           .data = 0x12345678,
                                           .fd = fd};
  check("written.set", ioctl(d, VFIO_DEVICE_IOEVENTFD, &write_it));
  const uint64_t one = 1;
  check("written.signal", write(fd, &one, sizeof(one)));
  uint32_t value;
  while ((value = read_register(d, kLiveness)) == 0) {
  }
  check_value("written", "%#x", value);
}

// ---- Registers

static void registers(void) {
  const int d = open_device();
  uint32_t value = 0;
  char bytes[64];
  set_command(d, 0);
  check("memory_off.read", pread(d, &value, 4, 0));
  check("memory_off.write", pwrite(d, &value, 4, kLiveness));
  check("memory_off.beyond", pread(d, &value, 4, kBarSize));
  check("memory_off.nothing", pread(d, &value, 0, 0));
  set_command(d, kCommandMemory);
  check_value("identification", "%#x", read_register(d, kIdentification));
  write_register(d, kLiveness, 0x1234abcd);
  check_value("liveness", "%#x", read_register(d, kLiveness));
  const struct {
    const char* name;
    uint64_t offset;
    size_t size;
  } reads[] = {
      {"eight", 0, 8},
      {"sixteen", 0, 16},
      {"six", 0, 6},
      {"nothing", 0, 0},
      {"last", kBarSize - 4, 4},
      {"across_end", kBarSize - 4, 8},
      {"end", kBarSize, 4},
      {"beyond", kBarSize + 4, 4},
      {"bar_1", region_offset(1), 4},
      {"bar_5", region_offset(5), 4},
      {"rom", region_offset(6), 4},
      {"vga", region_offset(8), 4},
      {"vga_window", region_offset(8) + 0xa0000, 4},
      {"region_9", region_offset(9), 4},
      {"region_100", region_offset(100), 4},
  };
  for (size_t i = 0; i < ARRAY_SIZE(reads); i++) {
    memset(bytes, 0xee, sizeof(bytes));
    long result = pread(d, bytes, reads[i].size, (off_t)reads[i].offset);
    check_out(text("read.%s", reads[i].name), result, "%s", hex(bytes, 18));
    check(text("write.%s", reads[i].name),
          reads[i].offset < 8 ? 0 : pwrite(d, bytes, reads[i].size, (off_t)reads[i].offset));
  }
  check("pointer.read", pread(d, (void*)kPage, 4, 0));
  check("pointer.write", pwrite(d, (void*)kPage, 4, kLiveness));
  // The device's own opinions: the factorial, the status.
  write_register(d, 8, 5);
  while (read_register(d, 0x20) & 1) {
  }
  check_value("factorial", "%u", read_register(d, 8));
  check_value("status", "%#x", read_register(d, 0x20));
  check("reset", ioctl(d, VFIO_DEVICE_RESET));
  set_command(d, kCommandMemory);
  check_value("after_reset", "%#x", read_register(d, kLiveness));
}

static sigjmp_buf fault;

static void on_fault(int signal) {
  (void)signal;
  siglongjmp(fault, 1);
}

static const char* touch(const volatile uint32_t* address) {
  signal(SIGBUS, on_fault);
  if (sigsetjmp(fault, 1)) {
    return "SIGBUS";
  }
  return text("%#x", *address);
}

static void mapping(void) {
  const int d = open_device();
  const struct {
    const char* name;
    uint64_t offset;
    size_t size;
    int protection, flags;
  } rows[] = {
      {"whole", 0, kBarSize, PROT_READ | PROT_WRITE, MAP_SHARED},
      {"page", 0, kPage, PROT_READ | PROT_WRITE, MAP_SHARED},
      {"last_page", kBarSize - kPage, kPage, PROT_READ, MAP_SHARED},
      {"private", 0, kPage, PROT_READ, MAP_PRIVATE},
      {"beyond", kBarSize, kPage, PROT_READ, MAP_SHARED},
      {"across_end", kBarSize - kPage, 2 * kPage, PROT_READ, MAP_SHARED},
      {"bar_1", region_offset(1), kPage, PROT_READ, MAP_SHARED},
      {"rom", region_offset(6), kPage, PROT_READ, MAP_SHARED},
      {"config", region_offset(7), kPage, PROT_READ, MAP_SHARED},
      {"vga", region_offset(8), kPage, PROT_READ, MAP_SHARED},
      {"region_9", region_offset(9), kPage, PROT_READ, MAP_SHARED},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    void* memory =
        mmap(NULL, rows[i].size, rows[i].protection, rows[i].flags, d, (off_t)rows[i].offset);
    check(rows[i].name, memory == MAP_FAILED ? -1 : 0);
  }
  const uint32_t* registers = mmap(NULL, kPage, PROT_READ, MAP_SHARED, d, 0);
  if (registers != MAP_FAILED) {
    set_command(d, 0);
    check_value("memory_off", "%s", touch(registers));
    set_command(d, kCommandMemory);
    check_value("memory_on", "%s", touch(registers));
    set_command(d, 0);
    check_value("memory_off_again", "%s", touch(registers));
    set_command(d, kCommandMemory);
    check_value("memory_on_again", "%s", touch(registers));
  }
}

// ---- Configuration space

enum { kBar0 = 0x10, kBarBytes = 4 };

static void config(void) {
  const int d = open_device();
  unsigned char bytes[kConfigSize + 16];
  // Where the host put its BAR and its interrupt line is the machine's business.
  long result = read_config(d, 0, bytes, kConfigSize);
  memset(bytes + kBar0, 0, kBarBytes);
  bytes[0x3c] = 0;
  check_out("all", result, "%s", hex(bytes, kConfigSize));
  static const struct {
    const char* name;
    uint64_t offset;
    size_t size;
  } kReads[] = {
      {"one", 0, 1},        {"two", 0, 2},
      {"three", 0, 3},      {"unaligned", 1, 4},
      {"odd", 1, 2},        {"cap", 0x40, 8},
      {"last", 255, 1},     {"across_end", 254, 4},
      {"end", 256, 1},      {"far", 0x1000, 4},
      {"nothing", 0, 0},    {"nothing_beyond", 300, 0},
      {"too_long", 0, 257}, {"far_above", 1u << 20, 4},
  };
  for (size_t i = 0; i < ARRAY_SIZE(kReads); i++) {
    memset(bytes, 0xee, sizeof(bytes));
    result = read_config(d, kReads[i].offset, bytes, kReads[i].size);
    check_out(text("read.%s", kReads[i].name), result, "%s", hex(bytes, 8));
    check(text("write.%s", kReads[i].name),
          write_config(d, kReads[i].offset, "\0\0\0\0\0\0\0\0",
                       kReads[i].size > 8 || kReads[i].offset < 8 ? 0 : kReads[i].size));
  }
  check("pointer", read_config(d, 0, (void*)kPage, 4));
}

// What all bits set, and all bits clear, make of a register.
static void config_write(void) {
  const int d = open_device();
  static const struct {
    const char* name;
    uint64_t offset;
    size_t size;
  } kRegisters[] = {
      {"vendor", 0, 2},
      {"device", 2, 2},
      {"command", 4, 2},
      {"status", 6, 2},
      {"revision", 8, 1},
      {"class", 9, 3},
      {"cache_line", 0xc, 1},
      {"latency", 0xd, 1},
      {"header_type", 0xe, 1},
      {"bist", 0xf, 1},
      {"bar_0", 0x10, 4},
      {"bar_1", 0x14, 4},
      {"bar_5", 0x24, 4},
      {"cardbus", 0x28, 4},
      {"subsystem", 0x2c, 4},
      {"rom", 0x30, 4},
      {"cap_pointer", 0x34, 1},
      {"reserved", 0x38, 4},
      {"line", 0x3c, 1},
      {"pin", 0x3d, 1},
      {"min_gnt", 0x3e, 2},
      {"msi.id", 0x40, 2},
      {"msi.control", 0x42, 2},
      {"msi.address", 0x44, 4},
      {"msi.address_high", 0x48, 4},
      {"msi.data", 0x4c, 2},
      {"unclaimed", 0x80, 4},
  };
  for (size_t i = 0; i < ARRAY_SIZE(kRegisters); i++) {
    const uint64_t offset = kRegisters[i].offset;
    const size_t size = kRegisters[i].size;
    uint32_t ones = ~0u, zeros = 0, old = 0, value = 0;
    read_config(d, offset, &old, size);
    long result = write_config(d, offset, &ones, size);
    read_config(d, offset, &value, size);
    check_out(text("%s.ones", kRegisters[i].name), result, "%#x", value);
    value = 0;
    result = write_config(d, offset, &zeros, size);
    read_config(d, offset, &value, size);
    check_out(text("%s.zeros", kRegisters[i].name), result, "%#x", value);
    write_config(d, offset, &old, size);
    value = 0;
    read_config(d, offset, &value, size);
    check_value(text("%s.old", kRegisters[i].name), "%d", value == old);
  }
}

static void command(void) {
  struct vfio vfio = open_pci(0, kDevice);
  const int d = vfio.device;
  uint16_t value = 0;
  read_config(d, kCommand, &value, sizeof(value));
  check_value("opened", "%#x", value);
  for (unsigned bit = 0; bit < 16; bit++) {
    const uint16_t wanted = (uint16_t)(1u << bit);
    long result = write_config(d, kCommand, &wanted, sizeof(wanted));
    read_config(d, kCommand, &value, sizeof(value));
    check_out(text("bit_%u", bit), result, "%#x", value);
  }
  set_command(d, kCommandMemory | kCommandMaster);
  check("reset", ioctl(d, VFIO_DEVICE_RESET));
  read_config(d, kCommand, &value, sizeof(value));
  check_value("after_reset", "%#x", value);
  close(d);
  vfio.device = get_pci_device(vfio.group, pci_name(0));
  read_config(vfio.device, kCommand, &value, sizeof(value));
  check_value("opened_again", "%#x", value);
}

static void other_calls(void) {
  const int d = open_device();
  char byte = 0;
  check("read", read(d, &byte, 1));
  check("lseek", lseek(d, 0, SEEK_END));
  check("fsync", fsync(d));
  check("ftruncate", ftruncate(d, 0));
  // The same device once more: both files are as good.
  struct vfio_device_info info = {.argsz = sizeof(info)};
  const int copy = dup(d);
  close(d);
  check("copy", ioctl(copy, VFIO_DEVICE_GET_INFO, &info));
}

static const struct test_case kCases[] = {
    {"info", info},
    {"other_ioctls", other_ioctls},
    {"hot_reset", hot_reset},
    {"features", features},
    {"ioeventfd", ioeventfd},
    {"registers", registers},
    {"mapping", mapping},
    {"config", config},
    {"config_write", config_write},
    {"command", command},
    {"other_calls", other_calls},
};

const struct section pci_device_section = {
    .name = "pci_device",
    .summary = "a direct PCI device (edu): info, registers, configuration space",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_pci = true,
};
