// The group: opening it, GET_STATUS, SET_CONTAINER, UNSET_CONTAINER, GET_DEVICE_FD.

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/serial_reg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

static const struct {
  const char* name;
  enum stage stage;
} kStates[] = {
    {"opened", kOpened},
    {"attached", kAttached},
    {"type1v2", kType1v2},
    {"device", kDevice},
};

static const char* describe_status(const void* argument) {
  const struct vfio_group_status* status = argument;
  return text("flags=%#x", status->flags);
}

static void report_status(const char* name, int group) {
  struct vfio_group_status status = {.argsz = sizeof(status)};
  long result = ioctl(group, VFIO_GROUP_GET_STATUS, &status);
  check_out(name, result, "%s", describe_status(&status));
}

// A group can be open once at a time.
static void opening(void) {
  const char* path = group_path(device_name());
  struct stat info;
  long result = stat(path, &info);
  check_out("stat", result, "mode=%03o", info.st_mode & 0777);
  check_value("character_device", "%d", S_ISCHR(info.st_mode));

  int group = check_fd("first", open(path, O_RDWR));
  check_fd("second", open(path, O_RDWR));
  check_fd("second.rdonly", open(path, O_RDONLY));
  check_fd("second.path_only", open(path, O_PATH));
  int copy = dup(group);
  close(group);
  check_fd("copy_is_open", open(path, O_RDWR));
  close(copy);
  group = check_fd("again", open(path, O_RDONLY));
  report_status("rdonly.status", group);
  int container = open_container();
  check("rdonly.set_container", set_container(group, container));
  check("rdonly.set_iommu", ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  int device = check_fd("rdonly.device", get_device_fd(group));
  check_value("rdonly.device.access_mode", "%d", fcntl(device, F_GETFL) & O_ACCMODE);
  check_fd("open_with_device", open(path, O_RDWR));
  close(group);
  check_fd("open_with_device_only", open(path, O_RDWR));
  close(device);
  check_fd("after_device", open(path, O_RDWR));
}

static void file_calls(void) {
  struct vfio vfio = open_vfio(kType1v2);
  char byte = 0;
  check("read", read(vfio.group, &byte, 1));
  check("write", write(vfio.group, &byte, 1));
  check("pread", pread(vfio.group, &byte, 1, 0));
  void* map = mmap(NULL, kPage, PROT_READ, MAP_SHARED, vfio.group, 0);
  check("mmap", map == MAP_FAILED ? -1 : 0);
}

static void ioctl_numbers(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    check_ioctl_numbers(kStates[i].name, vfio.group, 0);
    close_vfio(&vfio);
  }
}

static void get_status(void) {
  const struct vfio_group_status status = {.argsz = sizeof(status), .flags = 0xffffffff};
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    check_argsz(kStates[i].name, vfio.group, VFIO_GROUP_GET_STATUS, &status, sizeof(status),
                sizeof(status), describe_status);
    close_vfio(&vfio);
  }
  struct vfio vfio = open_vfio(kType1v2);
  check_pointers("status", vfio.group, VFIO_GROUP_GET_STATUS, &status, sizeof(status));

  close(vfio.container);
  report_status("container_closed", vfio.group);
  check("unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  report_status("after_unset", vfio.group);
}

// File descriptors that are no container.
static void check_foreign_fds(const char* prefix, int group) {
  int pipes[2];
  if (pipe(pipes)) {
    give_up("pipe");
  }
  const struct {
    const char* name;
    int fd;
  } fds[] = {
      {"minus_one", -1},
      {"smallest", INT_MIN},
      {"largest", INT_MAX},
      {"not_open", 1000},
      {"at_fdcwd", AT_FDCWD},
      {"null_device", open("/dev/null", O_RDWR)},
      {"regular_file", open("/proc/self/exe", O_RDONLY)},
      {"directory", open("/", O_RDONLY | O_DIRECTORY)},
      {"path_only", open("/dev/vfio/vfio", O_PATH)},
      {"pipe", pipes[0]},
      {"eventfd", make_eventfd()},
      {"epoll", epoll_create1(0)},
      {"group_itself", group},
  };
  for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
    check(text("%s.%s", prefix, fds[i].name), set_container(group, fds[i].fd));
  }
}

static void container_fds(void) {
  struct vfio vfio = open_vfio(kOpened);
  check_foreign_fds("opened", vfio.group);
  report_status("opened.status", vfio.group);
  int copy = dup(vfio.container);
  close(vfio.container);
  check("copy", set_container(vfio.group, copy));
  check_foreign_fds("attached", vfio.group);
  report_status("attached.status", vfio.group);
  check("attached.same", set_container(vfio.group, copy));
  check("attached.other", set_container(vfio.group, open_container()));
  check("unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  int device_of_nobody = open_container();
  check("rdonly_container", set_container(vfio.group, open("/dev/vfio/vfio", O_RDONLY)));
  check("rdonly_container.unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  check("after_unset", set_container(vfio.group, device_of_nobody));
  check("after_unset.set_iommu", ioctl(device_of_nobody, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  int device = check_fd("device", get_device_fd(vfio.group));
  check("with_device", set_container(vfio.group, open_container()));
  close(vfio.group);
  vfio.group = -1;
  check("group_closed.device_as_group", set_container(device, device_of_nobody));
}

static void container_pointers(void) {
  struct vfio vfio = open_vfio(kOpened);
  // The read-only pointer succeeds: the number is only read.
  check_pointers("opened", vfio.group, VFIO_GROUP_SET_CONTAINER, &vfio.container,
                 sizeof(vfio.container));
  check_pointers("attached", vfio.group, VFIO_GROUP_SET_CONTAINER, &vfio.container,
                 sizeof(vfio.container));
}

static void unset_container(void) {
  struct vfio vfio = open_vfio(kOpened);
  check("opened", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  check("set", set_container(vfio.group, vfio.container));
  check("attached.with_argument", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER, -1L));
  check("twice", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  close_vfio(&vfio);

  vfio = open_vfio(kDevice);
  check("device_open", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  int second = get_device_fd(vfio.group);
  close(vfio.device);
  check("one_of_two_closed", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  int copy = dup(second);
  close(second);
  check("copy_open", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  report_status("busy.status", vfio.group);
  close(copy);
  check("all_closed", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  report_status("status", vfio.group);
  check_fd("device_after_unset", get_device_fd(vfio.group));
}

// Where GET_DEVICE_FD's string lies and ends.
static void check_name_pointers(const char* prefix, int group) {
  char* pages = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || munmap(pages + 3 * kPage, kPage)) {
    give_up("mmap");
  }
  char* const end = pages + 3 * kPage;
  const size_t length = strlen(device_name());

  memset(pages, 'x', 3 * kPage);
  check(text("%s.unterminated", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, pages));
  check(text("%s.unterminated_page", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end - kPage));
  check(text("%s.runs_into_hole", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end - kPage + 1));
  check(text("%s.short_runs_into_hole", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end - 8));
  pages[kPage] = '\0';
  check(text("%s.terminator_after_page", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, pages));
  pages[kPage - 1] = '\0';
  check(text("%s.terminator_ends_page", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, pages));
  memcpy(end - length, device_name(), length);
  check(text("%s.name_without_terminator", prefix),
        ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end - length));
  check(text("%s.null", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, NULL));
  check(text("%s.unmapped", prefix), ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end));

  // The only one that names the device: readable up to the page's last byte.
  memcpy(end - length - 1, device_name(), length + 1);
  int fd = check_fd(text("%s.name_ends_page", prefix),
                    ioctl(group, VFIO_GROUP_GET_DEVICE_FD, end - length - 1));
  if (fd >= 0) {
    close(fd);
  }
  munmap(pages, 3 * kPage);
}

static void check_names(const char* prefix, int group) {
  char upper[64] = "";
  for (size_t i = 0; device_name()[i] && i + 1 < sizeof(upper); i++) {
    upper[i] = (char)toupper((unsigned char)device_name()[i]);
  }
  const struct {
    const char* name;
    const char* device;
  } names[] = {
      {"empty", ""},
      {"unknown", "no-such-device"},
      {"prefix", text("%.35s", device_name())},
      {"longer", text("%s0", device_name())},
      {"newline", text("%s\n", device_name())},
      {"trailing_blank", text("%s ", device_name())},
      {"leading_blank", text(" %s", device_name())},
      {"with_option", text("%s vf_token=%s", device_name(), device_name())},
      {"upper_case", upper},
      {"path", text("%s/%s", MDEV_DEVICES, device_name())},
      {"exact", device_name()},
  };
  for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
    int fd = check_fd(text("%s.%s", prefix, names[i].name),
                      ioctl(group, VFIO_GROUP_GET_DEVICE_FD, names[i].device));
    if (fd >= 0) {
      close(fd);
    }
  }
}

static void device_names(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    check_names(kStates[i].name, vfio.group);
    check_name_pointers(kStates[i].name, vfio.group);
    close_vfio(&vfio);
  }
}

static void device_fds(void) {
  struct vfio vfio = open_vfio(kDevice);
  int second = check_fd("second", get_device_fd(vfio.group));
  check_value("distinct", "%d", second != vfio.device);
  check_value("close_on_exec", "%d", fcntl(second, F_GETFD) & FD_CLOEXEC);
  check_value("access_mode", "%d", fcntl(second, F_GETFL) & O_ACCMODE);
  write8(vfio.device, 0, UART_SCR, 0x5a);
  check_value("one_device", "%#x", read8(second, 0, UART_SCR));
  close(vfio.device);
  check_value("other_closed", "%#x", read8(second, 0, UART_SCR));
  int fds[64];
  size_t opened = 0;
  while (opened < ARRAY_SIZE(fds) && (fds[opened] = get_device_fd(vfio.group)) >= 0) {
    opened++;
  }
  check_value("many", "%zu", opened);

  // No file descriptor left: the call fails and leaves nothing behind.
  while (dup(second) >= 0) {
  }
  check_fd("no_fd_left", get_device_fd(vfio.group));
}

static const struct test_case kCases[] = {
    {"opening", opening},
    {"file_calls", file_calls},
    {"ioctl_numbers", ioctl_numbers},
    {"get_status", get_status},
    {"set_container", container_fds},
    {"set_container_pointers", container_pointers},
    {"unset_container", unset_container},
    {"get_device_fd", device_names},
    {"device_fds", device_fds},
};

const struct section group_section = {
    .name = "group",
    .summary = "the group's ioctls, and opening it",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
