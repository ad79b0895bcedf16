// Which file keeps what alive: orders of closing, copies, forks, and other processes.

#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

static const uint64_t kIova = 0x100000;

static long map_page(int container) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map),
      .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
      .vaddr = 0x10000,
      .iova = kIova,
      .size = kPage,
  };
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static long device_info(int device) {
  struct vfio_device_info info = {.argsz = sizeof(info)};
  return ioctl(device, VFIO_DEVICE_GET_INFO, &info);
}

// The group can be opened, and is as new.
static void report_free(void) {
  int group = open(group_path(device_name()), O_RDWR);
  check_fd("after.group", group);
  int container = open_container();
  check("after.set_container", set_container(group, container));
  check("after.set_iommu", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check("after.map", map_page(container));
}

// The container's fd goes first: group and device keep it alive.
static void container_first(void) {
  struct vfio vfio = open_vfio(kDevice);
  check("map", map_page(vfio.container));
  close(vfio.container);
  check("device_info", device_info(vfio.device));
  int second = check_fd("second_device", get_device_fd(vfio.group));
  check("unset.busy", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  close(vfio.device);
  close(second);
  check_fd("device_again", second = get_device_fd(vfio.group));
  close(second);
  check("unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  close(vfio.group);
  report_free();
}

// The group's fd goes first: it stays open, and busy, until its last device is closed.
static void group_first(void) {
  struct vfio vfio = open_vfio(kDevice);
  check("map", map_page(vfio.container));
  close(vfio.group);
  check("device_info", device_info(vfio.device));
  check("still_mapped", map_page(vfio.container));
  check_fd("group_open", open(group_path(device_name()), O_RDWR));
  close(vfio.device);
  check("emptied", map_page(vfio.container));
  report_free();
}

// The device outlives both.
static void device_last(void) {
  struct vfio vfio = open_vfio(kDevice);
  close(vfio.container);
  close(vfio.group);
  check("device_info", device_info(vfio.device));
  write8(vfio.device, 0, UART_SCR, 0xa5);
  check_value("scratch", "%#x", read8(vfio.device, 0, UART_SCR));
  close(vfio.device);
  report_free();
}

static void group_last(void) {
  struct vfio vfio = open_vfio(kDevice);
  close(vfio.device);
  close(vfio.container);
  int device = check_fd("device_again", get_device_fd(vfio.group));
  check("device_info", device_info(device));
  close(device);
  close(vfio.group);
  report_free();
}

// The mappings go when the last group leaves, not before.
static void mappings(void) {
  struct vfio vfio = open_vfio(kType1v2);
  check("map", map_page(vfio.container));
  check("map.again", map_page(vfio.container));
  check("unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  check("set", set_container(vfio.group, vfio.container));
  check("set_iommu", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check("map.after", map_page(vfio.container));
}

// An fd that a child inherited counts as open.
static void fork_holds(void) {
  struct vfio vfio = open_vfio(kDevice);
  check("map", map_page(vfio.container));
  struct holder holder = fork_holder();
  close_vfio(&vfio);
  check_fd("group.held", open(group_path(device_name()), O_RDWR));
  release_holder(&holder);
  report_free();
}

// A child that exits takes nothing away.
static void child_exits(void) {
  struct vfio vfio = open_vfio(kDevice);
  check("map", map_page(vfio.container));
  struct holder holder = fork_holder();
  release_holder(&holder);
  check("device_info", device_info(vfio.device));
  check("still_mapped", map_page(vfio.container));
  check("unset.busy", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
}

// A child uses what its parent opened; the two share one state.
static void child_uses(void) {
  struct vfio vfio = open_vfio(kDevice);
  pid_t child = fork();
  if (!child) {
    check("child.map", map_page(vfio.container));
    check("child.device_info", device_info(vfio.device));
    write8(vfio.device, 0, UART_SCR, 0x3c);
    check_fd("child.second_device", get_device_fd(vfio.group));
    _exit(0);
  }
  waitpid(child, NULL, 0);
  check_value("scratch", "%#x", read8(vfio.device, 0, UART_SCR));
  // The mapping of a process that is gone stays.
  check("map", map_page(vfio.container));
  struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = kIova, .size = kPage};
  long result = ioctl(vfio.container, VFIO_IOMMU_UNMAP_DMA, &unmap);
  check_out("unmap", result, "size=%#llx", (unsigned long long)unmap.size);
}

// A process opens everything, is killed, and everything is free.
static void killed(void) {
  int ready[2];
  char byte = 0;
  if (pipe(ready)) {
    give_up("pipe");
  }
  pid_t child = fork();
  if (!child) {
    struct vfio vfio = open_vfio(kDevice);
    map_page(vfio.container);
    _exit(write(ready[1], &byte, 1) == 1 && pause());
  }
  close(ready[1]);
  check("opened", read(ready[0], &byte, 1));
  check_fd("group.held", open(group_path(device_name()), O_RDWR));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  report_free();
}

// A device fd that another process took over, without container or group, is as good as the first.
static void taken_over(void) {
  int ready[2];
  int fds[2];
  if (pipe(ready)) {
    give_up("pipe");
  }
  pid_t child = fork();
  if (!child) {
    struct vfio vfio = open_vfio(kDevice);
    fds[0] = vfio.device;
    fds[1] = vfio.container;
    _exit(write(ready[1], fds, sizeof(fds)) == sizeof(fds) && pause());
  }
  if (read(ready[0], fds, sizeof(fds)) != sizeof(fds)) {
    give_up("read");
  }
  int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
  int device = check_fd("device", (int)syscall(SYS_pidfd_getfd, pidfd, fds[0], 0));
  int container = check_fd("container", (int)syscall(SYS_pidfd_getfd, pidfd, fds[1], 0));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  check_fd("group.held", open(group_path(device_name()), O_RDWR));
  check("device_info", device_info(device));
  write8(device, 0, UART_SCR, 0x77);
  check_value("scratch", "%#x", read8(device, 0, UART_SCR));
  check("map", map_page(container));
  check("map.again", map_page(container));
  close(device);
  check("map.device_closed", map_page(container));
  report_free();
}

// Opening and closing many times leaves nothing behind.
static void many_times(void) {
  int rounds = 0;
  for (; rounds < 200; rounds++) {
    struct vfio vfio = open_vfio(kDevice);
    if (map_page(vfio.container) || device_info(vfio.device)) {
      break;
    }
    close_vfio(&vfio);
  }
  check_value("rounds", "%d", rounds);
}

static const struct test_case kCases[] = {
    {"container_first", container_first},
    {"group_first", group_first},
    {"device_last", device_last},
    {"group_last", group_last},
    {"mappings", mappings},
    {"fork_holds", fork_holds},
    {"child_exits", child_exits},
    {"child_uses", child_uses},
    {"killed", killed},
    {"taken_over", taken_over},
    {"many_times", many_times},
};

const struct section lifetime_section = {
    .name = "lifetime",
    .summary = "which file keeps what alive",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
