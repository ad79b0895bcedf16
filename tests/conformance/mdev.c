// Mediated devices through sysfs: types, creating, removing, what appears and disappears.

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/serial_reg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "feature.h"
#include "fixture.h"
#include "sysfs.h"

static const char* const kTypes[] = {"mtty-1", "mtty-2"};

static bool exists(const char* path) { return !access(path, F_OK); }

static void report_mode(const char* name, const char* path) {
  struct stat info;
  long result = lstat(path, &info);
  check_out(name, result, "mode=%03o type=%s", info.st_mode & 0777,
            S_ISDIR(info.st_mode)   ? "dir"
            : S_ISLNK(info.st_mode) ? "link"
            : S_ISCHR(info.st_mode) ? "char"
                                    : "file");
}

static void types(void) {
  report_directory("list", type_file("", ""), device_name());
  for (size_t i = 0; i < ARRAY_SIZE(kTypes); i++) {
    report_directory(text("%s", kTypes[i]), type_file(kTypes[i], ""), device_name());
    const char* const files[] = {"device_api", "name", "description"};
    for (size_t j = 0; j < ARRAY_SIZE(files); j++) {
      report_file(text("%s.%s", kTypes[i], files[j]), type_file(kTypes[i], files[j]),
                  device_name());
    }
    check_value(text("%s.available_instances", kTypes[i]), "%u", available_instances(kTypes[i]));
    const char* const modes[] = {"create", "device_api", "name", "available_instances", "devices"};
    for (size_t j = 0; j < ARRAY_SIZE(modes); j++) {
      report_mode(text("%s.%s.stat", kTypes[i], modes[j]), type_file(kTypes[i], modes[j]));
    }
  }
  report_directory("mtty-1.devices", type_file("mtty-1", "devices"), device_name());
  report_directory("mtty-2.devices", type_file("mtty-2", "devices"), device_name());
}

// Attributes are read or written as their mode says, by root too.
static void access_modes(void) {
  const struct {
    const char* name;
    const char* path;
    int flags;
  } rows[] = {
      {"create.rdonly", type_file("mtty-1", "create"), O_RDONLY},
      {"create.rdwr", type_file("mtty-1", "create"), O_RDWR},
      {"create.trunc", type_file("mtty-1", "create"), O_WRONLY | O_TRUNC},
      {"create.append", type_file("mtty-1", "create"), O_WRONLY | O_APPEND},
      {"name.wronly", type_file("mtty-1", "name"), O_WRONLY},
      {"name.rdwr", type_file("mtty-1", "name"), O_RDWR},
      {"device_api.wronly", type_file("mtty-1", "device_api"), O_WRONLY},
      {"available_instances.wronly", type_file("mtty-1", "available_instances"), O_WRONLY},
      {"available_instances.trunc", type_file("mtty-1", "available_instances"), O_RDONLY | O_TRUNC},
      {"remove.rdonly", mdev_file(device_name(), "remove"), O_RDONLY},
      {"remove.rdwr", mdev_file(device_name(), "remove"), O_RDWR},
      {"remove.wronly", mdev_file(device_name(), "remove"), O_WRONLY},
      {"new_file", type_file("mtty-1", "no_such_file"), O_WRONLY | O_CREAT},
      {"no_file", type_file("mtty-1", "no_such_file"), O_RDONLY},
      {"no_type", type_file("mtty-3", "create"), O_WRONLY},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    int fd = check_fd(rows[i].name, open(rows[i].path, rows[i].flags, 0600));
    if (fd >= 0) {
      close(fd);
    }
  }
  check("unlink", unlink(type_file("mtty-1", "name")));
  check("mkdir", mkdir(type_file("mtty-1", "subdirectory"), 0700));
  check("rmdir", rmdir(type_file("mtty-1", "devices")));
  check("rename", rename(type_file("mtty-1", "name"), type_file("mtty-1", "other")));

  // A text attribute is read in pieces, and again from its start.
  char buffer[64];
  int fd = open(type_file("mtty-1", "device_api"), O_RDONLY);
  check("read.4", read(fd, buffer, 4));
  check("read.rest", read(fd, buffer, sizeof(buffer)));
  check("read.end", read(fd, buffer, sizeof(buffer)));
  check("lseek", lseek(fd, 0, SEEK_SET));
  check("read.again", read(fd, buffer, sizeof(buffer)));
  check("pread.5", pread(fd, buffer, 3, 5));
  close(fd);
}

static void create_strings(void) {
  const char* const uuid = own_uuid(1);
  const struct {
    const char* name;
    const char* string;
    size_t length;  // 0: all of it
  } rows[] = {
      {"exact", uuid, 0},
      {"newline", text("%s\n", uuid), 0},
      {"37th_character", text("%sx", uuid), 0},
      {"37th_is_blank", text("%s ", uuid), 0},
      {"37th_is_nul", uuid, 37},
      {"two_newlines", text("%s\n\n", uuid), 0},
      {"38_characters", text("%sxx", uuid), 0},
      {"35_characters", uuid, 35},
      {"35_and_newline", text("%.35s\n", uuid), 0},
      {"upper_case", "5F0E1C64-7C2A-4D1E-9B3F-000000000001", 0},
      {"mixed_case", "5F0e1C64-7c2A-4D1e-9b3F-000000000001", 0},
      {"no_dashes", "5f0e1c647c2a4d1e9b3f0000000000010000", 0},
      {"dash_misplaced", "5f0e1c6-47c2a-4d1e-9b3f-000000000001", 0},
      {"bad_digit", "5f0e1c64-7c2a-4d1e-9b3f-00000000000g", 0},
      {"bad_first_digit", "g f0e1c64-7c2a-4d1e-9b3f-00000000001", 0},
      {"leading_blank", text(" %.35s", uuid), 0},
      {"braces", text("{%.34s}", uuid), 0},
      {"nul_inside", "5f0e1c64-7c2a-4d1e-9b3f-00000000\0001", 36},
      {"one_character", "5", 0},
      {"newline_only", "\n", 0},
      {"null_uuid", "00000000-0000-0000-0000-000000000000", 0},
      {"page", text("%s%3000s", uuid, ""), 0},
      {"duplicate", device_name(), 0},
      {"duplicate_newline", text("%s\n", device_name()), 0},
      {"no_bytes", NULL, 0},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    const size_t length = rows[i].length   ? rows[i].length
                          : rows[i].string ? strlen(rows[i].string)
                                           : 0;
    long result = write_file(type_file("mtty-1", "create"), rows[i].string, length);
    const int error = errno;
    const char* created = exists(mdev_file(uuid, "")) ? uuid : NULL;
    if (!strcmp(rows[i].name, "null_uuid") && exists(mdev_file(rows[i].string, ""))) {
      created = rows[i].string;
    }
    errno = error;
    check_out(rows[i].name, result, "created=%d", created != NULL);
    if (created) {
      check(text("%s.remove", rows[i].name), remove_mdev(created));
    }
  }
  check("kernel_pointer",
        write_file(type_file("mtty-1", "create"), (const char*)0xffff888000000000, 36));
  check("null_pointer", write_file(type_file("mtty-1", "create"), NULL, 36));
}

static void duplicates(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  check("same_type", create_mdev("mtty-1", own_uuid(1)));
  check("other_type", create_mdev("mtty-2", own_uuid(1)));
  check("upper_case", create_mdev("mtty-1", "5F0E1C64-7C2A-4D1E-9B3F-000000000001"));
  check("remove", remove_mdev(own_uuid(1)));
  check("again_other_type", create_mdev("mtty-2", own_uuid(1)));
  report_link("type", mdev_file(own_uuid(1), "mdev_type"), own_uuid(1));
  check("remove.again", remove_mdev(own_uuid(1)));

  // One open file serves several devices.
  int fd = open(type_file("mtty-1", "create"), O_WRONLY);
  check("one_fd.first", write(fd, own_uuid(1), 36));
  check("one_fd.second", write(fd, own_uuid(2), 36));
  check("one_fd.third_at_offset", pwrite(fd, own_uuid(3), 36, 100));
  close(fd);
  for (unsigned n = 1; n <= 3; n++) {
    check(text("one_fd.remove.%u", n), remove_mdev(own_uuid(n)));
  }
}

static void remove_strings(void) {
  const char* const strings[] = {"0",
                                 "0\n",
                                 "00",
                                 "0x0",
                                 "x",
                                 "-1",
                                 "+1x",
                                 " 1",
                                 "1 ",
                                 "1x",
                                 "",
                                 "\n",
                                 "1",
                                 "1\n",
                                 "2",
                                 "0x1",
                                 "+1",
                                 "010",
                                 "18446744073709551616",
                                 "18446744073709551615",
                                 "1\n\n"};
  for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
    if (!exists(mdev_file(own_uuid(1), ""))) {
      must_create_mdev("mtty-1", own_uuid(1));
    }
    long result = write_file(mdev_file(own_uuid(1), "remove"), strings[i], strlen(strings[i]));
    check_out(text("string_%s", hex(strings[i], strlen(strings[i]))), result, "removed=%d",
              !exists(mdev_file(own_uuid(1), "")));
  }
  remove_own_mdevs();
  check("no_device", remove_mdev(own_uuid(1)));

  // A file that was opened before its device went.
  must_create_mdev("mtty-1", own_uuid(1));
  int first = open(mdev_file(own_uuid(1), "remove"), O_WRONLY);
  int second = open(mdev_file(own_uuid(1), "remove"), O_WRONLY);
  check("opened.first", write(first, "1", 1));
  check("opened.first_again", write(first, "1", 1));
  check("opened.second", write(second, "1", 1));
  must_create_mdev("mtty-1", own_uuid(1));
  check("opened.new_device_of_the_name", write(second, "1", 1));
  check_value("opened.still_there", "%d", exists(mdev_file(own_uuid(1), "")));
}

// What there is of a device in the file systems.
static void report_device(const char* prefix, const char* uuid) {
  report_link(text("%s.bus_link", prefix), text("%s/%s", MDEV_DEVICES, uuid), uuid);
  report_directory(text("%s.files", prefix), mdev_file(uuid, ""), uuid);
  const char* const links[] = {"driver", "iommu_group", "mdev_type", "subsystem"};
  for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
    report_link(text("%s.%s", prefix, links[i]), mdev_file(uuid, links[i]), uuid);
  }
  report_mode(text("%s.remove", prefix), mdev_file(uuid, "remove"));
  report_file(text("%s.uevent", prefix), mdev_file(uuid, "uevent"), uuid);
  report_file(text("%s.vendor", prefix), mdev_file(uuid, "vendor/sample_mdev_dev"), uuid);
  report_directory(text("%s.vfio-dev", prefix), mdev_file(uuid, "vfio-dev"), uuid);
}

static void device_files(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  must_create_mdev("mtty-2", own_uuid(2));
  report_device("one", own_uuid(1));
  report_device("two", own_uuid(2));
  for (unsigned n = 1; n <= 2; n++) {
    const char* uuid = own_uuid(n);
    const char* type = kTypes[n - 1];
    report_link(text("%s.type_link", type), type_file(type, text("devices/%s", uuid)), uuid);
    report_link(text("%s.driver_link", type), text("/sys/bus/mdev/drivers/mtty/%s", uuid), uuid);
    report_mode(text("%s.parent_child", type), type_file("..", uuid));
    check(text("%s.remove", type), remove_mdev(uuid));
    check_value(text("%s.gone", type), "bus=%d type=%d parent=%d", exists(mdev_file(uuid, "")),
                exists(type_file(type, text("devices/%s", uuid))), exists(type_file("..", uuid)));
  }
}

static void group_files(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  const char* uuid = own_uuid(1);
  char number[16];
  strncpy(number, group_number(uuid), sizeof(number) - 1);
  number[sizeof(number) - 1] = '\0';
  const char* node = text("/dev/vfio/%s", number);
  const char* directory = text("/sys/kernel/iommu_groups/%s", number);
  report_mode("node", node);
  report_mode("directory", directory);
  report_directory("files", directory, uuid);
  report_directory("devices", text("%s/devices", directory), uuid);
  report_link("devices.link", text("%s/devices/%s", directory, uuid), uuid);
  const char* const files[] = {"name", "reserved_regions", "type"};
  for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
    report_file(files[i], text("%s/%s", directory, files[i]), uuid);
    report_mode(text("%s.stat", files[i]), text("%s/%s", directory, files[i]));
  }
  report_link("class", text("/sys/class/vfio/%s", number), uuid);
  check_value("class.dev", "%d", exists(text("/sys/class/vfio/%s/dev", number)));

  // A node that is opened while the device lives is of no use after it.
  int group = check_fd("open", open(node, O_RDWR));
  check("remove", remove_mdev(uuid));
  check_value("gone", "node=%d directory=%d class=%d", exists(node), exists(directory),
              exists(text("/sys/class/vfio/%s", number)));
  check_fd("open.gone", open(node, O_RDWR));
  struct vfio_group_status status = {.argsz = sizeof(status)};
  check("status.gone", ioctl(group, VFIO_GROUP_GET_STATUS, &status));
}

static void classes(void) {
  report_directory("mdev_bus.mtty", "/sys/class/mdev_bus/mtty/mdev_supported_types", device_name());
  report_link("mdev_bus.link", "/sys/class/mdev_bus/mtty", device_name());
  report_directory("bus", "/sys/bus/mdev", device_name());
  report_directory("driver", "/sys/bus/mdev/drivers/mtty", device_name());
  report_directory("iommu_groups", "/sys/kernel/iommu_groups", device_name());
  report_directory("dev_vfio", "/dev/vfio", device_name());
  report_device("under_test", device_name());
}

static void report_available(const char* name) {
  check_value(name, "mtty-1=%u mtty-2=%u", available_instances("mtty-1"),
              available_instances("mtty-2"));
}

static void instances(void) {
  report_available("start");
  check("create.1", create_mdev("mtty-1", own_uuid(1)));
  report_available("one");
  check("create.2", create_mdev("mtty-2", own_uuid(2)));
  report_available("three");
  check("remove.1", remove_mdev(own_uuid(1)));
  report_available("two");
  check("remove.2", remove_mdev(own_uuid(2)));
  report_available("end");

  unsigned made = 0;
  while (create_mdev("mtty-2", own_uuid(made)) == 36) {
    made++;
  }
  check_out("fill", -1, "made=%u", made);
  report_available("almost_full");
  check("last_port", create_mdev("mtty-1", own_uuid(50)));
  report_available("full");
  check("full.1", create_mdev("mtty-1", own_uuid(51)));
  check("full.2", create_mdev("mtty-2", own_uuid(51)));
  check("full.duplicate", create_mdev("mtty-1", own_uuid(50)));
  check_value("full.nothing_left", "%d", exists(mdev_file(own_uuid(51), "")));
  check("full.remove", remove_mdev(own_uuid(0)));
  report_available("two_free");
  check("refill.1", create_mdev("mtty-1", own_uuid(51)));
  check("refill.2", create_mdev("mtty-2", own_uuid(52)));
  remove_own_mdevs();
  report_available("all_removed");
}

// A device as it comes, before anybody used it.
static void fresh_device(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  struct vfio vfio = open_vfio_of(own_uuid(1), kDevice);
  // The kernel's sample learns from GET_INFO how many interrupts it has.
  struct vfio_irq_info irq = {.argsz = sizeof(irq)};
  check("irq_info.first", ioctl(vfio.device, VFIO_DEVICE_GET_IRQ_INFO, &irq));
  int eventfd = make_eventfd();
  check("set_irqs.first", set_trigger(vfio.device, VFIO_PCI_INTX_IRQ_INDEX, eventfd));
  struct vfio_device_info info = {.argsz = sizeof(info)};
  check("get_info", ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info));
  check("irq_info", ioctl(vfio.device, VFIO_DEVICE_GET_IRQ_INFO, &irq));
  check("set_irqs", set_trigger(vfio.device, VFIO_PCI_INTX_IRQ_INDEX, eventfd));
  const char* const registers[] = {"", "ier", "iir", "lcr", "mcr", "lsr", "msr", "scr"};
  for (unsigned reg = 1; reg < 8; reg++) {
    check_value(text("uart.%s", registers[reg]), "%#x", read8(vfio.device, 0, reg));
  }
  struct vfio_device_feature_mig_state state = {0};
  long result = device_feature(vfio.device, kGet | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &state,
                               sizeof(state));
  check_out("state", result, "state=%u", state.device_state);

  // What the UART holds outlives the file that wrote it.
  write8(vfio.device, 0, UART_SCR, 0x99);
  write8(vfio.device, 0, UART_TX, 'x');
  close_vfio(&vfio);
  vfio = open_vfio_of(own_uuid(1), kDevice);
  check_value("reopened.scr", "%#x", read8(vfio.device, 0, UART_SCR));
  check_value("reopened.lsr", "%#x", read8(vfio.device, 0, UART_LSR));
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check_value("reset.scr", "%#x", read8(vfio.device, 0, UART_SCR));
  check_value("reset.lsr", "%#x", read8(vfio.device, 0, UART_LSR));
}

static void two_ports(void) {
  must_create_mdev("mtty-2", own_uuid(2));
  struct vfio vfio = open_vfio_of(own_uuid(2), kDevice);
  for (uint32_t index = 0; index < VFIO_PCI_NUM_REGIONS; index++) {
    struct vfio_region_info info = {.argsz = sizeof(info), .index = index};
    long result = ioctl(vfio.device, VFIO_DEVICE_GET_REGION_INFO, &info);
    check_out(text("region.%u", index), result, "flags=%#x size=%#llx offset=%#llx", info.flags,
              (unsigned long long)info.size, (unsigned long long)info.offset);
  }
  for (unsigned bar = 0; bar < 2; bar++) {
    write8(vfio.device, bar, UART_SCR, (uint8_t)(0x10 + bar));
    write8(vfio.device, bar, UART_TX, (uint8_t)('a' + bar));
  }
  for (unsigned bar = 0; bar < 2; bar++) {
    const uint8_t scratch = read8(vfio.device, bar, UART_SCR);
    check_value(text("port.%u", bar), "scr=%#x rx=%c", scratch, read8(vfio.device, bar, UART_RX));
  }
  const uint32_t all_ones = 0xffffffff;
  for (unsigned bar = 0; bar < 2; bar++) {
    const off_t offset =
        (off_t)(region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + PCI_BASE_ADDRESS_0 + 4 * bar);
    uint32_t size = 0;
    check(text("bar.%u.write", bar), pwrite(vfio.device, &all_ones, 4, offset));
    long result = pread(vfio.device, &size, 4, offset);
    check_out(text("bar.%u.size", bar), result, "value=%#x", size);
  }
  struct vfio_device_feature_mig_data_size size = {0};
  long result =
      device_feature(vfio.device, kGet | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, &size, sizeof(size));
  check_out("data_size", result, "stop_copy_length=%llu",
            (unsigned long long)size.stop_copy_length);
}

// What a write to a BAR leaves of it, on a device that nobody has to use after.
static void bar_bits(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  struct vfio vfio = open_vfio_of(own_uuid(1), kDevice);
  const off_t bar0 = (off_t)(region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + PCI_BASE_ADDRESS_0);
  const uint32_t values[] = {0x0000c000, 0x0000d003, 0x0000e005, 0xffffffff, 0xfffffffe, 0};
  for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
    uint32_t value = 0;
    check(text("%#x.write", values[i]), pwrite(vfio.device, &values[i], 4, bar0));
    long result = pread(vfio.device, &value, 4, bar0);
    check_out(text("%#x.read", values[i]), result, "value=%#x", value);
  }
}

// Several groups share a container, and each other's mappings.
static void two_groups(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  must_create_mdev("mtty-1", own_uuid(2));
  struct vfio first = open_vfio_of(own_uuid(1), kAttached);
  struct vfio second = open_vfio_of(own_uuid(2), kOpened);
  check("second.attach", set_container(second.group, first.container));
  check("set_iommu", ioctl(first.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map), .flags = 3, .iova = 0x100000, .size = kPage};
  check("map", ioctl(first.container, VFIO_IOMMU_MAP_DMA, &map));
  check_fd("first.name_of_second", ioctl(first.group, VFIO_GROUP_GET_DEVICE_FD, own_uuid(2)));
  first.device =
      check_fd("first.device", ioctl(first.group, VFIO_GROUP_GET_DEVICE_FD, own_uuid(1)));
  second.device =
      check_fd("second.device", ioctl(second.group, VFIO_GROUP_GET_DEVICE_FD, own_uuid(2)));
  write8(first.device, 0, UART_SCR, 0x21);
  write8(second.device, 0, UART_SCR, 0x43);
  check_value("scratch", "%#x,%#x", read8(first.device, 0, UART_SCR),
              read8(second.device, 0, UART_SCR));
  check("first.unset.busy", ioctl(first.group, VFIO_GROUP_UNSET_CONTAINER));
  close(first.device);
  first.device = -1;
  check("first.unset", ioctl(first.group, VFIO_GROUP_UNSET_CONTAINER));
  check("map.one_left", ioctl(first.container, VFIO_IOMMU_MAP_DMA, &map));
  check("set_iommu.one_left", ioctl(first.container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
  check("first.attach_with_iommu", set_container(first.group, first.container));
  check_fd("first.device_again", ioctl(first.group, VFIO_GROUP_GET_DEVICE_FD, own_uuid(1)));
  close(second.device);
  close(second.group);
  check("map.second_closed", ioctl(first.container, VFIO_IOMMU_MAP_DMA, &map));

  // The other container never took part.
  check("other_container", ioctl(second.container, VFIO_IOMMU_MAP_DMA, &map));
}

static const struct test_case kCases[] = {
    {"types", types},
    {"access", access_modes},
    {"create", create_strings},
    {"duplicates", duplicates},
    {"remove", remove_strings},
    {"device_files", device_files},
    {"group_files", group_files},
    {"classes", classes},
    {"instances", instances},
    {"fresh_device", fresh_device},
    {"two_ports", two_ports},
    {"bar_bits", bar_bits},
    {"two_groups", two_groups},
};

const struct section mdev_section = {
    .name = "mdev",
    .summary = "mediated devices in sysfs",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_root = true,
    .clean = remove_own_mdevs,
};
