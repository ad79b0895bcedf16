// What a client's mapping of a memory BAR gives it, in each state of the function. Knows nothing of
// uvfio: the same on a real kernel.
// Usage: bar_mapping BDF BAR       a BAR of memory that keeps what is written
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "edu.h"

static int device;
static struct vfio_region_info config = {.argsz = sizeof config,
                                         .index = VFIO_PCI_CONFIG_REGION_INDEX};
static struct vfio_region_info bar = {.argsz = sizeof bar};
static uint32_t pm;  // where the power management capability is

static sigjmp_buf on_sigbus;
static void caught(int signal) {
  (void)signal;
  siglongjmp(on_sigbus, 1);
}

// "SIGBUS", or the value.
static const char* load(volatile uint32_t* word) {
  static char text[16];
  if (sigsetjmp(on_sigbus, 1) != 0) return "SIGBUS";
  snprintf(text, sizeof text, "0x%x", *word);
  return text;
}
static const char* access_to(volatile uint32_t* word) {
  return strcmp(load(word), "SIGBUS") == 0 ? "SIGBUS" : "fine";
}

static uint32_t config_read(uint32_t offset, size_t size) {
  uint32_t value = 0;
  if (pread(device, &value, size, (off_t)(config.offset + offset)) != (ssize_t)size)
    die("config read");
  return value;
}
static void config_write(uint32_t offset, size_t size, uint32_t value) {
  if (pwrite(device, &value, size, (off_t)(config.offset + offset)) != (ssize_t)size)
    die("config write");
}
static void decode(int on) {
  const uint32_t command = config_read(PCI_COMMAND, 2);
  config_write(PCI_COMMAND, 2,
               on ? command | PCI_COMMAND_MEMORY : command & ~(uint32_t)PCI_COMMAND_MEMORY);
}
static void power(uint32_t state) {
  config_write(pm + PCI_PM_CTRL, 2,
               (config_read(pm + PCI_PM_CTRL, 2) & ~(uint32_t)PCI_PM_CTRL_STATE_MASK) | state);
}
static void find_power_management(void) {
  for (uint32_t at = config_read(PCI_CAPABILITY_LIST, 1); at != 0; at = config_read(at + 1, 1)) {
    if (config_read(at, 1) == PCI_CAP_ID_PM) pm = at;
  }
  if (pm == 0) {
    fprintf(stderr, "no power management\n");
    exit(1);
  }
}

static int feature(uint32_t flags, int wake_up) {
  struct {
    struct vfio_device_feature head;
    struct vfio_device_low_power_entry_with_wakeup entry;
  } call = {.head = {.flags = VFIO_DEVICE_FEATURE_SET | flags},
            .entry = {.wakeup_eventfd = wake_up}};
  call.head.argsz = sizeof call.head + (wake_up >= 0 ? sizeof call.entry : 0);
  return ioctl(device, VFIO_DEVICE_FEATURE, &call) == 0 ? 0 : errno;
}

static void any_request(void) {
  struct vfio_device_info info = {.argsz = sizeof info};
  if (ioctl(device, VFIO_DEVICE_GET_INFO, &info) != 0) die("GET_INFO");
}

// ---- A thread that never stops looking.

static atomic_bool enough;
static void* keep_loading(void* word) {
  unsigned long loads = 0;
  while (!enough) {
    (void)*(volatile uint32_t*)word;
    ++loads;
  }
  return (void*)loads;
}

static void put(const char* file, const char* bdf, const char* text) {
  char path[PATH_MAX];
  if (bdf != NULL) snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", bdf, file);
  const int fd = open(bdf != NULL ? path : file, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) die(file);
  close(fd);
}

// Whoever made the function may not have bound it.
static void bind_to_vfio_pci(const char* bdf) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/driver", bdf);
  if (access(path, F_OK) == 0) return;
  put("driver_override", bdf, "vfio-pci");
  put("/sys/bus/pci/drivers_probe", NULL, bdf);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: bar_mapping BDF BAR\n");
    return 2;
  }
  bind_to_vfio_pci(argv[1]);
  struct edu opened = edu_open_group(argv[1]);
  edu_attach(&opened);
  device = ioctl(opened.group, VFIO_GROUP_GET_DEVICE_FD, argv[1]);
  if (device < 0) die("VFIO_GROUP_GET_DEVICE_FD");
  bar.index = (uint32_t)atoi(argv[2]);
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) != 0 ||
      ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar) != 0)
    die("GET_REGION_INFO");
  find_power_management();
  struct sigaction action = {.sa_handler = caught};
  sigaction(SIGBUS, &action, NULL);

  const int protection = PROT_READ | PROT_WRITE;
  uint32_t* const word = mmap(NULL, 4096, protection, MAP_SHARED, device, (off_t)bar.offset);
  if (word == MAP_FAILED) die("mmap");
  decode(1);
  *(volatile uint32_t*)word = 0x12345678;
  printf("decoding: %s\n", load(word));
  decode(0);
  printf("not decoding: %s\n", load(word));
  uint32_t value = 0;
  printf("not decoding, pread: %s\n",
         pread(device, &value, 4, (off_t)bar.offset) < 0 && errno == EIO ? "EIO" : "other");
  uint32_t* const late = mmap(NULL, 4096, protection, MAP_SHARED, device, (off_t)bar.offset);
  printf("not decoding, mapped then: %s\n", late == MAP_FAILED ? "refused" : load(late));
  decode(1);
  printf("decoding again: %s\n", load(word));
  printf("decoding again, mapped without: %s\n", load(late));

  power(3);
  printf("D3hot: %s\n", access_to(word));
  power(0);
  printf("D0: %s\n", access_to(word));

  pthread_t thread;
  pthread_create(&thread, NULL, keep_loading, word);
  int resets = 0;
  for (int i = 0; i < 20; ++i) resets += ioctl(device, VFIO_DEVICE_RESET) == 0;
  enough = true;
  pthread_join(thread, NULL);
  printf("RESET beside a thread that loads: %d of 20, then: %s\n", resets, access_to(word));

  *(volatile uint32_t*)word = 0x87654321;
  printf("low power: errno %d\n", feature(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, -1));
  printf("low power: %s\n", access_to(word));
  any_request();
  printf("low power, after a request: %s\n", access_to(word));
  printf("low power again: errno %d\n", feature(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, -1));
  printf("low power, exit: errno %d\n", feature(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, -1));
  printf("after it: %s\n", access_to(word));

  const int wake_up = eventfd(0, EFD_CLOEXEC);
  printf("low power with wake-up: errno %d\n",
         feature(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, wake_up));
  printf("low power with wake-up: %s\n", access_to(word));
  // What a request does then depends in the kernel on whether the function has fallen asleep yet.
  return 0;
}
