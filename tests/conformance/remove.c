// Removing a device that is in use: who waits for whom, and what the remaining files are good for.

#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"
#include "sysfs.h"

static long map_page(int container) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map), .flags = 3, .iova = 0x100000, .size = kPage};
  return ioctl(container, VFIO_IOMMU_MAP_DMA, &map);
}

static bool exists(const char* path) { return !access(path, F_OK); }

// A process that removes a device.
static pid_t start_remover(const char* uuid) {
  pid_t child = fork();
  if (child < 0) {
    give_up("fork");
  }
  if (!child) {
    close_range(STDERR_FILENO + 1, ~0u, 0);  // Or it would wait for its own copy of the device fd.
    _exit(remove_mdev(uuid) == 1 ? 0 : errno);
  }
  return child;
}

static void report_remover(const char* name, pid_t remover) {
  int status = 0;
  if (waitpid(remover, &status, 0) != remover) {
    give_up("waitpid");
  }
  check_value(
      name, "%s",
      WIFEXITED(status) && !WEXITSTATUS(status) ? "removed" : text("status %#x", (unsigned)status));
}

static bool still_running(pid_t pid) { return waitpid(pid, NULL, WNOHANG) == 0; }

// Returns once the removal has gone as far as it gets while a device fd is open.
static void wait_until_unlisted(int group, const char* uuid) {
  for (int fd; (fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid)) >= 0;) {
    close(fd);
    sched_yield();
  }
}

static void report_group(const char* prefix, int group, const char* uuid) {
  struct vfio_group_status status = {.argsz = sizeof(status)};
  long result = ioctl(group, VFIO_GROUP_GET_STATUS, &status);
  check_out(text("%s.status", prefix), result, "flags=%#x", status.flags);
  check_fd(text("%s.get_device_fd", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid));
  check(text("%s.set_container", prefix), set_container(group, open_container()));
}

static void report_container(const char* prefix, int container) {
  check(text("%s.map", prefix), map_page(container));
  check(text("%s.set_iommu", prefix), ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
}

// An open device: the remover waits.
static void device_open(void) {
  const char* const uuid = own_uuid(1);
  must_create_mdev("mtty-1", uuid);
  struct vfio vfio = open_vfio_of(uuid, kDevice);
  const char* const node = group_path(uuid);
  check("map", map_page(vfio.container));
  pid_t remover = start_remover(uuid);
  wait_until_unlisted(vfio.group, uuid);
  check_value("waits", "%d", still_running(remover));
  report_group("waiting", vfio.group, uuid);
  struct vfio_device_info info = {.argsz = sizeof(info)};
  check("waiting.device_info", ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info));
  write8(vfio.device, 0, UART_SCR, 0x12);
  check_value("waiting.scratch", "%#x", read8(vfio.device, 0, UART_SCR));
  check("waiting.map", map_page(vfio.container));
  check("waiting.remove", remove_mdev(uuid));
  check("waiting.create", create_mdev("mtty-1", uuid));
  check_value("waiting.exists", "device=%d node=%d remove=%d", exists(mdev_file(uuid, "")),
              exists(node), exists(mdev_file(uuid, "remove")));
  check_value("waiting.available", "%u", available_instances("mtty-1"));
  check_value("still_waits", "%d", still_running(remover));
  close(vfio.device);
  report_remover("device_closed", remover);
  check_value("gone", "device=%d node=%d", exists(mdev_file(uuid, "")), exists(node));
  report_group("gone", vfio.group, uuid);
  report_container("gone", vfio.container);
  check_value("gone.available", "%u", available_instances("mtty-1"));
  close(vfio.group);
  check("create_again", create_mdev("mtty-1", uuid));
  check("remove_again", remove_mdev(uuid));
}

// Several device fds: the last one decides.
static void several_fds(void) {
  const char* const uuid = own_uuid(1);
  must_create_mdev("mtty-1", uuid);
  struct vfio vfio = open_vfio_of(uuid, kDevice);
  int second = ioctl(vfio.group, VFIO_GROUP_GET_DEVICE_FD, uuid);
  pid_t remover = start_remover(uuid);
  wait_until_unlisted(vfio.group, uuid);
  close(vfio.device);
  check_value("one_left", "%d", still_running(remover));
  close(vfio.group);
  check_value("group_closed", "%d", still_running(remover));
  close(second);
  report_remover("all_closed", remover);
}

// Only a group: nobody waits.
static void group_open(void) {
  const char* const uuid = own_uuid(1);
  const enum stage stages[] = {kOpened, kAttached, kType1v2};
  const char* const names[] = {"opened", "attached", "type1v2"};
  for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
    must_create_mdev("mtty-1", uuid);
    struct vfio vfio = open_vfio_of(uuid, stages[i]);
    check(text("%s.remove", names[i]), remove_mdev(uuid));
    report_container(names[i], vfio.container);
    check(text("%s.unset", names[i]), ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
    report_group(names[i], vfio.group, uuid);
    // The same name again is another group; the old file does not become one of it.
    must_create_mdev("mtty-1", uuid);
    report_group(text("%s.created_again", names[i]), vfio.group, uuid);
    struct vfio other = open_vfio_of(uuid, kDevice);
    close_vfio(&other);
    close_vfio(&vfio);
    check(text("%s.remove_again", names[i]), remove_mdev(uuid));
  }
}

// The container goes on with the groups that are left.
static void one_of_two_groups(void) {
  must_create_mdev("mtty-1", own_uuid(1));
  must_create_mdev("mtty-1", own_uuid(2));
  struct vfio first = open_vfio_of(own_uuid(1), kType1v2);
  int second = open(group_path(own_uuid(2)), O_RDWR);
  check("attach_second", set_container(second, first.container));
  check("map", map_page(first.container));
  check("remove.first", remove_mdev(own_uuid(1)));
  report_container("one_left", first.container);
  check("remove.second", remove_mdev(own_uuid(2)));
  report_container("none_left", first.container);
}

// The user is another process, and it dies.
static void user_killed(void) {
  const char* const uuid = own_uuid(1);
  must_create_mdev("mtty-1", uuid);
  int ready[2];
  char byte = 0;
  if (pipe(ready)) {
    give_up("pipe");
  }
  pid_t user = fork();
  if (!user) {
    open_vfio_of(uuid, kDevice);
    _exit(write(ready[1], &byte, 1) == 1 && pause());
  }
  close(ready[1]);
  check("opened", read(ready[0], &byte, 1));
  pid_t remover = start_remover(uuid);
  while (exists(mdev_file(uuid, "remove"))) {
    sched_yield();
  }
  check_value("waits", "%d", still_running(remover));
  kill(user, SIGKILL);
  waitpid(user, NULL, 0);
  report_remover("user_killed", remover);
  check_value("gone", "%d", !exists(mdev_file(uuid, "")));
}

// Two removers at once: one does it.
static void two_removers(void) {
  const char* const uuid = own_uuid(1);
  must_create_mdev("mtty-1", uuid);
  struct vfio vfio = open_vfio_of(uuid, kDevice);
  int early = open(mdev_file(uuid, "remove"), O_WRONLY);
  pid_t remover = start_remover(uuid);
  wait_until_unlisted(vfio.group, uuid);
  check("second.opened_before", write(early, "1", 1));
  check("second.opened_after", remove_mdev(uuid));
  close_vfio(&vfio);
  report_remover("first", remover);
}

// Many devices at once, each used a little.
static void many_devices(void) {
  enum { kDevices = 20 };
  struct vfio vfios[kDevices];
  for (unsigned n = 0; n < kDevices; n++) {
    must_create_mdev("mtty-1", own_uuid(n));
    vfios[n] = open_vfio_of(own_uuid(n), kDevice);
    write8(vfios[n].device, 0, UART_SCR, (uint8_t)n);
  }
  unsigned right = 0;
  for (unsigned n = 0; n < kDevices; n++) {
    right += read8(vfios[n].device, 0, UART_SCR) == n;
  }
  check_value("distinct", "%u", right);
  unsigned removed = 0;
  for (unsigned n = 0; n < kDevices; n++) {
    close_vfio(&vfios[n]);
    removed += remove_mdev(own_uuid(n)) == 1;
  }
  check_value("removed", "%u", removed);
}

static const struct test_case kCases[] = {
    {"device_open", device_open},   {"several_fds", several_fds},
    {"group_open", group_open},     {"one_of_two_groups", one_of_two_groups},
    {"user_killed", user_killed},   {"two_removers", two_removers},
    {"many_devices", many_devices},
};

const struct section remove_section = {
    .name = "remove",
    .summary = "removing devices that are in use",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_root = true,
    .clean = remove_own_mdevs,
};
