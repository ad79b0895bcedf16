// Interrupts that an educational device raises itself, and what the kernel tells through eventfds.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "pci_fixture.h"
#include "sysfs.h"

enum {
  kNone = VFIO_IRQ_SET_DATA_NONE,
  kBool = VFIO_IRQ_SET_DATA_BOOL,
  kEventfd = VFIO_IRQ_SET_DATA_EVENTFD,
  kMask = VFIO_IRQ_SET_ACTION_MASK,
  kUnmask = VFIO_IRQ_SET_ACTION_UNMASK,
  kTrigger = VFIO_IRQ_SET_ACTION_TRIGGER,

  kIntx = VFIO_PCI_INTX_IRQ_INDEX,
  kMsi = VFIO_PCI_MSI_IRQ_INDEX,
  kErr = VFIO_PCI_ERR_IRQ_INDEX,
  kReq = VFIO_PCI_REQ_IRQ_INDEX,

  kRaise = 0x60,
  kAcknowledge = 0x64,
  kDisableIntx = 1 << 10,
};

static long set_irqs(int device, uint32_t flags, uint32_t index, uint32_t count, int32_t fd) {
  union irq_set set = {
      .header = {.argsz = sizeof(set.header), .flags = flags, .index = index, .count = count}};
  if (flags & kEventfd) {
    memcpy(set.header.data, &fd, sizeof(fd));
    set.header.argsz += sizeof(fd);
  } else if (flags & kBool) {
    set.header.data[0] = fd != 0;
    set.header.argsz += 1;
  }
  return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

// How often an eventfd was signalled that certainly will be, or was.
static unsigned long long wait_for_signal(int fd) {
  struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
  return poll(&poll_fd, 1, 5000) == 1 ? take_signals(fd) : 0;
}

// A read of the device comes back after the interrupt that was raised before.
static unsigned long long signals_now(int device, int fd) {
  read_register(device, 0);
  return take_signals(fd);
}

static void intx(void) {
  const int d = open_pci(0, kDevice).device;
  const int fd = make_eventfd();
  uint16_t value = 0;
  set_command(d, kCommandMemory);
  check("enable", set_irqs(d, kEventfd | kTrigger, kIntx, 1, fd));
  write_register(d, kRaise, 5);
  check_value("raised", "%llu", wait_for_signal(fd));
  check_value("status", "%#x", read_register(d, 0x24));
  check("unmask.pending", set_irqs(d, kNone | kUnmask, kIntx, 1, 0));
  check_value("unmask.pending.signals", "%llu", wait_for_signal(fd));
  write_register(d, kAcknowledge, 5);
  check("unmask.quiet", set_irqs(d, kNone | kUnmask, kIntx, 1, 0));
  check_value("unmask.quiet.signals", "%llu", signals_now(d, fd));
  check("mask", set_irqs(d, kNone | kMask, kIntx, 1, 0));
  write_register(d, kRaise, 1);
  check_value("masked.signals", "%llu", signals_now(d, fd));
  check("unmask", set_irqs(d, kNone | kUnmask, kIntx, 1, 0));
  check_value("unmask.signals", "%llu", wait_for_signal(fd));
  // The command register's way of masking.
  write_register(d, kAcknowledge, 1);
  set_irqs(d, kNone | kUnmask, kIntx, 1, 0);
  set_command(d, kCommandMemory | kDisableIntx);
  write_register(d, kRaise, 1);
  check_value("disabled.signals", "%llu", signals_now(d, fd));
  read_config(d, 4, &value, sizeof(value));
  check_value("disabled.command", "%#x", value);
  set_command(d, kCommandMemory);
  check_value("enabled.signals", "%llu", wait_for_signal(fd));
  write_register(d, kAcknowledge, 1);
  // An eventfd that unmasks.
  const int unmask = make_eventfd();
  check("unmask_fd", set_irqs(d, kEventfd | kUnmask, kIntx, 1, unmask));
  check("unmask_fd.twice", set_irqs(d, kEventfd | kUnmask, kIntx, 1, unmask));
  write_register(d, kRaise, 2);
  take_signals(fd);
  const uint64_t one = 1;
  check("unmask_fd.signal", write(unmask, &one, sizeof(one)));
  check_value("unmask_fd.signals", "%llu", wait_for_signal(fd));
  check_value("unmask_fd.taken", "%llu", (unsigned long long)take_signals(unmask));
  check("unmask_fd.remove", set_irqs(d, kEventfd | kUnmask, kIntx, 1, -1));
  check("no_eventfd", set_irqs(d, kEventfd | kTrigger, kIntx, 1, -1));
  check("disable", set_irqs(d, kNone | kTrigger, kIntx, 0, 0));
  check_value("disable.signals", "%llu", signals_now(d, fd));
}

static void msi(void) {
  const int d = open_pci(0, kDevice).device;
  const int fd = make_eventfd();
  uint16_t control = 0;
  set_command(d, kCommandMemory | kCommandMaster);
  check("enable", set_irqs(d, kEventfd | kTrigger, kMsi, 1, fd));
  read_config(d, 0x42, &control, sizeof(control));
  check_value("control", "%#x", control);
  write_register(d, kRaise, 1);
  check_value("raised", "%llu", wait_for_signal(fd));
  write_register(d, kRaise, 2);
  check_value("raised_again", "%llu", wait_for_signal(fd));
  write_register(d, kAcknowledge, 3);
  check("reset", ioctl(d, VFIO_DEVICE_RESET));
  set_command(d, kCommandMemory);
  write_register(d, kRaise, 1);
  check_value("no_master", "%llu", signals_now(d, fd));
  write_register(d, kAcknowledge, 1);
  check("disable", set_irqs(d, kNone | kTrigger, kMsi, 0, 0));
  read_config(d, 0x42, &control, sizeof(control));
  check_value("disable.control", "%#x", control);
  set_command(d, kCommandMemory | kCommandMaster);
  write_register(d, kRaise, 1);
  check_value("disable.signals", "%llu", signals_now(d, fd));
}

static void error_and_request(void) {
  const int d = open_pci(0, kDevice).device;
  static const struct {
    const char* name;
    uint32_t index;
  } kIndexes[] = {{"err", kErr}, {"req", kReq}};
  const int fd = make_eventfd(), msi_fd = make_eventfd();
  for (size_t i = 0; i < ARRAY_SIZE(kIndexes); i++) {
    const struct {
      const char* name;
      uint32_t flags, count;
      int fd;
    } steps[] = {
        {"none", kNone | kTrigger, 1, 0},
        {"none_count_0", kNone | kTrigger, 0, 0},
        {"false", kBool | kTrigger, 1, 0},
        {"true", kBool | kTrigger, 1, 1},
        {"minus_one", kEventfd | kTrigger, 1, -1},
        {"minus_two", kEventfd | kTrigger, 1, -2},
        {"closed", kEventfd | kTrigger, 1, 1000},
        {"eventfd", kEventfd | kTrigger, 1, fd},
        {"set.none", kNone | kTrigger, 1, 0},
        {"set.true", kBool | kTrigger, 1, 1},
        {"set.false", kBool | kTrigger, 1, 0},
        {"set.count_2", kNone | kTrigger, 2, 0},
        {"set.mask", kNone | kMask, 1, 0},
        {"set.unmask", kNone | kUnmask, 1, 0},
        {"set.again", kEventfd | kTrigger, 1, fd},
        {"set.remove", kNone | kTrigger, 0, 0},
        {"removed.none", kNone | kTrigger, 1, 0},
        {"removed.true", kBool | kTrigger, 1, 1},
        {"eventfd_again", kEventfd | kTrigger, 1, fd},
        {"remove_again", kEventfd | kTrigger, 1, -1},
    };
    for (size_t j = 0; j < ARRAY_SIZE(steps); j++) {
      long result = set_irqs(d, steps[j].flags, kIndexes[i].index, steps[j].count, steps[j].fd);
      check_out(text("%s.%s", kIndexes[i].name, steps[j].name), result, "signals=%llu",
                (unsigned long long)take_signals(fd));
    }
  }
  check("beside_msi.req", set_irqs(d, kEventfd | kTrigger, kReq, 1, fd));
  check("beside_msi.msi", set_irqs(d, kEventfd | kTrigger, kMsi, 1, msi_fd));
  check("beside_msi.trigger", set_irqs(d, kNone | kTrigger, kReq, 1, 0));
  check_value("beside_msi.signals", "%llu,%llu", (unsigned long long)take_signals(fd),
              (unsigned long long)take_signals(msi_fd));
}

// Somebody takes the device away: its user is asked to let go, and waited for.
static void request(void) {
  struct vfio vfio = open_pci(0, kDevice);
  const char* const name = pci_name(0);
  const int fd = make_eventfd();
  check("set", set_irqs(vfio.device, kEventfd | kTrigger, kReq, 1, fd));
  check("override", write_file(pci_file(name, "driver_override"), "vfio-pci", 8));
  pid_t remover = fork();
  if (remover < 0) {
    give_up("fork");
  }
  if (!remover) {
    close_range(STDERR_FILENO + 1, ~0u, 0);
    _exit(write_file("/sys/bus/pci/drivers/vfio-pci/unbind", name, strlen(name)) !=
          (long)strlen(name));
  }
  check_value("signals", "%d", wait_for_signal(fd) > 0);
  check_value("waits", "%d", waitpid(remover, NULL, WNOHANG) == 0);
  struct vfio_device_info info = {.argsz = sizeof(info)};
  check("device_info", ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info));
  check_fd("device_again", get_pci_device(vfio.group, name));
  close(vfio.device);
  int status = -1;
  waitpid(remover, &status, 0);
  check_value("removed", "%d", status);
  check_value("driver", "%d", !access(pci_file(name, "driver"), F_OK));
  check("bind", write_file("/sys/bus/pci/drivers/vfio-pci/bind", name, strlen(name)));
}

// A descriptor that only names an eventfd, and eventfds that have been signalled before.
static void eventfds(void) {
  const int d = open_pci(0, kDevice).device;
  const int fd = make_eventfd(), unmask = make_eventfd();
  char name[32];
  snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
  const int path = open(name, O_PATH | O_CLOEXEC);
  check("path.intx", set_irqs(d, kEventfd | kTrigger, kIntx, 1, path));
  check("path.msi", set_irqs(d, kEventfd | kTrigger, kMsi, 1, path));
  check("path.request", set_irqs(d, kEventfd | kTrigger, kReq, 1, path));
  set_command(d, kCommandMemory);
  check("enable", set_irqs(d, kEventfd | kTrigger, kIntx, 1, fd));
  check("path.unmask", set_irqs(d, kEventfd | kUnmask, kIntx, 1, path));
  write_register(d, kRaise, 1);
  check_value("raised", "%llu", wait_for_signal(fd));
  const uint64_t five = 5;
  check("pending.signal", write(unmask, &five, sizeof(five)));
  check("pending.attach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, unmask));
  check_value("pending.signals", "%llu", wait_for_signal(fd));
  check("pending.again", write(unmask, &five, sizeof(five)));
  check_value("pending.again.signals", "%llu", wait_for_signal(fd));
  check_value("pending.again.left", "%llu", (unsigned long long)take_signals(unmask));
  check("detach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, -1));
  check("left.signal", write(unmask, &five, sizeof(five)));
  check("left.attach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, unmask));
  check_value("left.signals", "%llu", wait_for_signal(fd));
  check_value("left", "%llu", (unsigned long long)take_signals(unmask));
  check("left.detach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, -1));
  check("taken.signal", write(unmask, &five, sizeof(five)));
  check("taken.attach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, unmask));
  check("taken.detach", set_irqs(d, kEventfd | kUnmask, kIntx, 1, -1));
  check_value("taken", "%llu", (unsigned long long)take_signals(unmask));
}

static const struct test_case kCases[] = {
    {"intx", intx},       {"msi", msi},           {"error_and_request", error_and_request},
    {"request", request}, {"eventfds", eventfds},
};

const struct section pci_signal_section = {
    .name = "pci_signal",
    .summary = "interrupts of a direct PCI device (edu), and requests to let it go",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .needs_root = true,
    .needs_pci = true,
};
