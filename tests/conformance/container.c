// The container's own ioctls: GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU, and what is left to the
// IOMMU driver.

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"

// The container's states, as far as its ioctls tell them apart.
static const struct {
  const char* name;
  enum stage stage;
} kStates[] = {
    {"empty", kOpened},    {"attached", kAttached}, {"type1", kType1},
    {"type1v2", kType1v2}, {"device", kDevice},
};

static long get_info(int container) {
  // A fresh one each time: the call raises argsz to what the capabilities would need.
  struct vfio_iommu_type1_info info = {.argsz = sizeof(info)};
  return ioctl(container, VFIO_IOMMU_GET_INFO, &info);
}

static void node(void) {
  struct stat info;
  long result = stat("/dev/vfio/vfio", &info);
  check_out("stat", result, "mode=%03o", info.st_mode & 0777);
  check_value("character_device", "%d", S_ISCHR(info.st_mode));

  const struct {
    const char* name;
    int flags;
  } modes[] = {
      {"open.rdonly", O_RDONLY},
      {"open.wronly", O_WRONLY},
      {"open.rdwr", O_RDWR},
      {"open.trunc", O_RDWR | O_TRUNC},
      {"open.creat_excl", O_RDWR | O_CREAT | O_EXCL},
      {"open.directory", O_RDONLY | O_DIRECTORY},
      {"open.nonblock", O_RDWR | O_NONBLOCK},
  };
  for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
    int fd = check_fd(modes[i].name, open("/dev/vfio/vfio", modes[i].flags, 0600));
    if (fd >= 0) {
      check(text("%s.api_version", modes[i].name), ioctl(fd, VFIO_GET_API_VERSION));
      close(fd);
    }
  }
}

// A container is for ioctls only.
static void file_calls(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i += 3) {  // empty, type1v2
    struct vfio vfio = open_vfio(kStates[i].stage);
    char byte = 0;
    check(text("%s.read", kStates[i].name), read(vfio.container, &byte, 1));
    check(text("%s.write", kStates[i].name), write(vfio.container, &byte, 1));
    check(text("%s.pread", kStates[i].name), pread(vfio.container, &byte, 1, 0));
    check(text("%s.ftruncate", kStates[i].name), ftruncate(vfio.container, 0));
    void* map = mmap(NULL, kPage, PROT_READ, MAP_SHARED, vfio.container, 0);
    check(text("%s.mmap", kStates[i].name), map == MAP_FAILED ? -1 : 0);
    close_vfio(&vfio);
  }
}

static void api_version(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    check(kStates[i].name, ioctl(vfio.container, VFIO_GET_API_VERSION));
    check(text("%s.with_argument", kStates[i].name),
          ioctl(vfio.container, VFIO_GET_API_VERSION, -1L));
    close_vfio(&vfio);
  }
}

static void check_extension(void) {
  const long others[] = {-1, 255, 1L << 32 | VFIO_TYPE1_IOMMU};
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    for (long extension = 0; extension <= 12; extension++) {
      check(text("%s.%ld", kStates[i].name, extension),
            ioctl(vfio.container, VFIO_CHECK_EXTENSION, extension));
    }
    for (size_t j = 0; j < ARRAY_SIZE(others); j++) {
      check(text("%s.%ld", kStates[i].name, others[j]),
            ioctl(vfio.container, VFIO_CHECK_EXTENSION, others[j]));
    }
    close_vfio(&vfio);
  }
}

static void ioctl_numbers(void) {
  for (size_t i = 0; i < ARRAY_SIZE(kStates); i++) {
    struct vfio vfio = open_vfio(kStates[i].stage);
    check_ioctl_numbers(kStates[i].name, vfio.container, 0);
    close_vfio(&vfio);
  }
}

static void set_iommu(void) {
  const long types[] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1L << 32 | 1};
  struct vfio vfio = open_vfio(kOpened);
  for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
    check(text("empty.%ld", types[i]), ioctl(vfio.container, VFIO_SET_IOMMU, types[i]));
  }
  close_vfio(&vfio);

  for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
    vfio = open_vfio(kAttached);
    long result = ioctl(vfio.container, VFIO_SET_IOMMU, types[i]);
    check(text("attached.%ld", types[i]), result);
    // A refusal leaves the container as it was.
    check(text("attached.%ld.then_1", types[i]),
          ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
    check(text("attached.%ld.then_3", types[i]),
          ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
    check(text("attached.%ld.then_0", types[i]), ioctl(vfio.container, VFIO_SET_IOMMU, 0));
    close_vfio(&vfio);
  }
}

// When the last group leaves, the container forgets its IOMMU.
static void emptied(void) {
  struct vfio vfio = open_vfio(kType1v2);
  check("unset", ioctl(vfio.group, VFIO_GROUP_UNSET_CONTAINER));
  check("set_iommu", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check("get_info", get_info(vfio.container));
  check("update_vaddr", ioctl(vfio.container, VFIO_CHECK_EXTENSION, VFIO_UPDATE_VADDR));
  check("dma_cc", ioctl(vfio.container, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU));
  check("attach_again", set_container(vfio.group, vfio.container));
  check("get_info.attached", get_info(vfio.container));
  check("set_other_iommu", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
  check("get_info.type1", get_info(vfio.container));
  close(vfio.group);
  check("get_info.group_closed", get_info(vfio.container));
  vfio.group = open_group();
  check("attach_reopened", set_container(vfio.group, vfio.container));
  check("set_iommu.reopened", ioctl(vfio.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
}

// Each open of the node is another container.
static void independent(void) {
  struct vfio vfio = open_vfio(kType1v2);
  int other = open_container();
  check("other.get_info", get_info(other));
  check("other.set_iommu", ioctl(other, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  check("other.set_container", set_container(vfio.group, other));
  int copy = dup(vfio.container);
  check("copy.get_info", get_info(copy));
  check("copy.set_iommu", ioctl(copy, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
  close(vfio.container);
  check("copy.get_info.original_closed", get_info(copy));
}

static const struct test_case kCases[] = {
    {"node", node},
    {"file_calls", file_calls},
    {"api_version", api_version},
    {"check_extension", check_extension},
    {"ioctl_numbers", ioctl_numbers},
    {"set_iommu", set_iommu},
    {"emptied", emptied},
    {"independent", independent},
};

const struct section container_section = {
    .name = "container",
    .summary = "the container's own ioctls",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
