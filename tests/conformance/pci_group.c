// Groups of direct devices: containers that they join and leave, viability, devices that come and
// go.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "pci_fixture.h"
#include "sysfs.h"

static void report_status(const char* name, int group) {
  struct vfio_group_status status = {.argsz = sizeof(status)};
  long result = ioctl(group, VFIO_GROUP_GET_STATUS, &status);
  check_out(name, result, "flags=%#x", status.flags);
}

static long unset(int group) { return ioctl(group, VFIO_GROUP_UNSET_CONTAINER); }

static void status(void) {
  static const char* const kNames[] = {"opened", "attached", "v1", "v2", "device"};
  for (int stage = kOpened; stage <= kDevice; stage++) {
    struct vfio vfio = open_pci(0, (enum stage)stage);
    report_status(kNames[stage], vfio.group);
    check_fd(text("%s.open_again", kNames[stage]), open(pci_group_path(0), O_RDWR));
    check(text("%s.set_container", kNames[stage]), set_container(vfio.group, vfio.container));
    check(text("%s.unset", kNames[stage]), unset(vfio.group));
    report_status(text("%s.left", kNames[stage]), vfio.group);
    close_vfio(&vfio);
  }
}

static void set_container_errors(void) {
  struct vfio vfio = open_pci(0, kOpened);
  const int eventfd = make_eventfd();
  check("minus_one", set_container(vfio.group, -1));
  check("not_open", set_container(vfio.group, 1000));
  check("eventfd", set_container(vfio.group, eventfd));
  check("itself", set_container(vfio.group, vfio.group));
  check("null", ioctl(vfio.group, VFIO_GROUP_SET_CONTAINER, 0));
  check("first", set_container(vfio.group, vfio.container));
  check("twice", set_container(vfio.group, vfio.container));
  check("other", set_container(vfio.group, open_container()));
  check("twice.bad_fd", set_container(vfio.group, -1));
}

// Groups join before and after SET_IOMMU, and the last one turns the lights off.
static void two_groups(void) {
  struct vfio vfio = open_pci(0, kAttached);
  const int c = vfio.container, second = open_pci_group(1);
  check("join_before", set_container(second, c));
  check("set_iommu", ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  char* const memory = make_pages(2);
  check("map", map_memory(c, kRW, memory, 0x100000, 2 * kPage));
  const long available = dma_available(c);
  check("first_leaves", unset(vfio.group));
  check_value("mappings", "%ld", dma_available(c) - available);
  check("first_again", set_container(vfio.group, c));
  check_value("mappings.again", "%ld", dma_available(c) - available);
  check("second_leaves", unset(second));
  check_value("mappings.one", "%ld", dma_available(c) - available);
  check("both_left", unset(vfio.group));
  check_value("info", "%ld", dma_available(c));
  check("map.none", map_memory(c, kRW, memory, 0x100000, 2 * kPage));
  check("set_iommu.none", ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check("back", set_container(vfio.group, c));
  check("map.no_iommu", map_memory(c, kRW, memory, 0x100000, 2 * kPage));
  check("set_iommu.back", ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
  check("map.back", map_memory(c, kRW, memory, 0x100000, 2 * kPage));
}

// Joining a container whose mappings the joining group cannot have any more room for: every page is
// counted once, however many groups there are.
static void join_counts_once(void) {
  struct vfio vfio = open_pci(0, kType1v2);
  char* const memory = memset(make_pages(16), 1, 16 * kPage);
  limit_locked_memory(16);
  check("map", map_memory(vfio.container, kRW, memory, 0x100000, 16 * kPage));
  const int second = open_pci_group(1);
  check("join", set_container(second, vfio.container));
  check("full", map_memory(vfio.container, kRW, memory, 0x200000, kPage));
  check("leave", unset(second));
  check("full.left", map_memory(vfio.container, kRW, memory, 0x200000, kPage));
}

// The container's file goes first; the group keeps the container.
static void container_closed(void) {
  struct vfio vfio = open_pci(0, kDevice);
  char* const memory = make_pages(2);
  strcpy(memory, "still there");
  check("map", map_memory(vfio.container, kRW, memory, 0x100000, 2 * kPage));
  close(vfio.container);
  set_command(vfio.device, kCommandMemory | kCommandMaster);
  device_reads(vfio.device, 0x100000, 0, 16);
  device_writes(vfio.device, 0x101000, 0, 16);
  check_value("dma", "%s", hex(memory + kPage, 16));
  report_status("status", vfio.group);
  check("unset.device_open", unset(vfio.group));
  close(vfio.device);
  check("unset", unset(vfio.group));
  report_status("status.unset", vfio.group);
}

static void close_order(void) {
  struct vfio vfio = open_pci(0, kDevice);
  close(vfio.group);
  check_fd("group_closed.open", open(pci_group_path(0), O_RDWR));
  struct vfio_device_info info = {.argsz = sizeof(info)};
  check("group_closed.device_info", ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info));
  close(vfio.device);
  vfio.group = check_fd("device_closed.open", open(pci_group_path(0), O_RDWR));
  report_status("device_closed.status", vfio.group);
  check("device_closed.map", map_memory(vfio.container, kRW, make_pages(1), 0x100000, kPage));
}

static void get_device(void) {
  const char* const name = pci_name(0);
  const struct {
    const char* what;
    const char* name;
  } names[] = {
      {"name", name},
      {"blank", text("%s ", name)},
      {"blanks", text("%s   ", name)},
      {"word", text("%s x", name)},
      {"equals", text("%s x=1", name)},
      {"letter", text("%sx", name)},
      {"newline", text("%s\n", name)},
      {"empty", ""},
      {"prefix", text("%.6s", name)},
      {"short", name + 5},
      {"upper", text("0000:00:0A.0")},
      {"other", pci_name(1)},
      {"token", text("%s vf_token=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", name)},
      {"token_twice", text("%s vf_token=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 "
                           "vf_token=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
                           name)},
      {"token_short", text("%s vf_token=83b8f4f2", name)},
      {"token_bad", text("%s vf_token=x3b8f4f2-509f-382f-3c1e-e6bfe0fa1001", name)},
      {"token_empty", text("%s vf_token=", name)},
  };
  static const char* const kStages[] = {"opened", "attached", "v1", "v2"};
  for (int stage = kOpened; stage <= kType1v2; stage++) {
    struct vfio vfio = open_pci(0, (enum stage)stage);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
      int fd = check_fd(text("%s.%s", kStages[stage], names[i].what),
                        get_pci_device(vfio.group, names[i].name));
      if (fd >= 0) {
        close(fd);
      }
    }
    close_vfio(&vfio);
  }
}

// ---- A group of two functions

static void shared_group(void) {
  const char* const first = shared_name(0);
  const char* const second = shared_name(1);
  if (!second) {
    errno = ENODEV;
    give_up("two functions of one group");
  }
  check_value("same_group", "%d", !strcmp(node_of(first), node_of(second)));
  struct vfio vfio = {.container = open_container(), .group = open(node_of(first), O_RDWR)};
  check_fd("open_again", open(node_of(second), O_RDWR));
  report_status("opened", vfio.group);
  check("attach", set_container(vfio.group, vfio.container));
  check("set_iommu", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  const int one = check_fd("first", get_pci_device(vfio.group, first));
  const int two = check_fd("second", get_pci_device(vfio.group, second));
  char* const memory = make_pages(2);
  strcpy(memory, "of both");
  check("map", map_memory(vfio.container, kRW, memory, 0x100000, 2 * kPage));
  set_command(one, kCommandMemory | kCommandMaster);
  set_command(two, kCommandMemory | kCommandMaster);
  device_reads(two, 0x100000, 0, 16);
  device_writes(two, 0x101000, 0, 16);
  check_value("dma", "%s", hex(memory + kPage, 16));
  close(one);
  check("unset.one_open", unset(vfio.group));
  close(two);
  check("unset", unset(vfio.group));
}

// A host driver has another function of the group.
static void not_viable(void) {
  if (!busy_name()) {
    errno = ENODEV;
    give_up("a group with a host driver in it");
  }
  struct vfio vfio = {.container = open_container(), .group = open(node_of(busy_name()), O_RDWR)};
  report_status("status", vfio.group);
  check("attach", set_container(vfio.group, vfio.container));
  check("attach.bad_fd", set_container(vfio.group, -1));
  check("unset", unset(vfio.group));
  check("set_iommu", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check_fd("device", get_pci_device(vfio.group, busy_name()));
}

// ---- Devices that come and go

static long bind_driver(const char* name) {
  return write_file("/sys/bus/pci/drivers/vfio-pci/bind", name, strlen(name));
}

// Makes vfio-pci the driver that fits.
static long override_driver(const char* name) {
  return write_file(pci_file(name, "driver_override"), "vfio-pci", 8);
}

static long unbind_driver(const char* name) {
  return write_file("/sys/bus/pci/drivers/vfio-pci/unbind", name, strlen(name));
}

static void binding(void) {
  const char* const name = pci_name(0);
  const char* const node = pci_group_path(0);
  check("override", override_driver(name));
  check("bind.bound", bind_driver(name));
  check("unbind", unbind_driver(name));
  check_value("node", "%d", !access(node, F_OK));
  check("unbind.unbound", unbind_driver(name));
  check("unbind.nobody", unbind_driver("0000:7f:1f.7"));
  check("bind", bind_driver(name));
  check_value("node.again", "%d", !access(node, F_OK));
  check("unbind.through_device", write_file(pci_file(name, "driver/unbind"), name, strlen(name)));
  check("probe", write_file("/sys/bus/pci/drivers_probe", name, strlen(name)));
  check_value("node.probed", "%d", !access(node, F_OK));
  struct vfio vfio = open_pci(0, kDevice);
  report_status("status", vfio.group);
}

// The group is in a container, with nobody using the device.
static void unbind_attached(void) {
  const char* const name = pci_name(0);
  struct vfio vfio = open_pci(0, kType1v2);
  char* const memory = make_pages(1);
  check("override", override_driver(name));
  check("map", map_memory(vfio.container, kRW, memory, 0x100000, kPage));
  const int second = open_pci_group(1);
  check("attach_second", set_container(second, vfio.container));
  check("unbind", unbind_driver(name));
  report_status("status", vfio.group);
  check("set_container", set_container(vfio.group, vfio.container));
  check_fd("device", get_pci_device(vfio.group, name));
  check("map.second_left", map_memory(vfio.container, kRW, memory, 0x200000, kPage));
  check("bind", bind_driver(name));
  report_status("status.bound", vfio.group);
  close(vfio.group);
  vfio.group = check_fd("open", open(pci_group_path(0), O_RDWR));
  check("attach", set_container(vfio.group, vfio.container));
  check_fd("device.again", get_pci_device(vfio.group, name));
}

static void rebind(void) {
  const unsigned most = 2;
  for (unsigned n = 0; n < most; n++) {
    if (access(pci_file(pci_name(n), "driver"), F_OK)) {
      override_driver(pci_name(n));
      bind_driver(pci_name(n));
    }
  }
}

static const struct test_case kCases[] = {
    {"status", status},
    {"set_container", set_container_errors},
    {"two_groups", two_groups},
    {"join_counts_once", join_counts_once},
    {"container_closed", container_closed},
    {"close_order", close_order},
    {"get_device", get_device},
    {"shared_group", shared_group},
    {"not_viable", not_viable},
    {"binding", binding},
    {"unbind_attached", unbind_attached},
};

const struct section pci_group_section = {
    .name = "pci_group",
    .summary = "groups of direct PCI devices",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_root = true,
    .needs_pci = true,
    .clean = rebind,
};
