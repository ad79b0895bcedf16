// SET_IRQS: what is refused, what it changes, and whether the eventfd hears of it.

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"
#include "pci_fixture.h"

enum {
  kNone = VFIO_IRQ_SET_DATA_NONE,
  kBool = VFIO_IRQ_SET_DATA_BOOL,
  kEventfd = VFIO_IRQ_SET_DATA_EVENTFD,
  kMask = VFIO_IRQ_SET_ACTION_MASK,
  kUnmask = VFIO_IRQ_SET_ACTION_UNMASK,
  kTrigger = VFIO_IRQ_SET_ACTION_TRIGGER,

  kIntx = VFIO_PCI_INTX_IRQ_INDEX,
  kMsi = VFIO_PCI_MSI_IRQ_INDEX,
  kMsix = VFIO_PCI_MSIX_IRQ_INDEX,
  kErr = VFIO_PCI_ERR_IRQ_INDEX,
  kReq = VFIO_PCI_REQ_IRQ_INDEX,
};

// What follows the header. Several eventfds or bools are the same one repeated.
enum payload {
  kNothing,
  kOneEventfd,
  kTwoEventfds,
  kMinusOne,
  kMinusTwo,
  kClosedFd,
  kNotAnEventfd,
  kFalse,
  kTrue,
};

// Returns the size of what was filled in.
static uint32_t make_set(union irq_set* set, uint32_t flags, uint32_t index, uint32_t start,
                         uint32_t count, enum payload payload, int eventfd) {
  uint32_t size = sizeof(set->header);
  int32_t fds[2] = {eventfd, eventfd};
  switch (payload) {
    case kNothing:
      break;
    case kFalse:
    case kTrue:
      set->header.data[0] = payload == kTrue;
      size += 1;
      break;
    case kMinusOne:
      fds[0] = fds[1] = -1;
      break;
    case kMinusTwo:
      fds[0] = fds[1] = -2;
      break;
    case kClosedFd:
      fds[0] = fds[1] = 1000;
      break;
    case kNotAnEventfd:
      fds[0] = fds[1] = STDOUT_FILENO;
      break;
    case kOneEventfd:
    case kTwoEventfds:
      break;
  }
  if (payload != kNothing && payload != kFalse && payload != kTrue) {
    const uint32_t length = payload == kTwoEventfds ? 8 : 4;
    memcpy(set->header.data, fds, length);
    size += length;
  }
  set->header.argsz = size;
  set->header.flags = flags;
  set->header.index = index;
  set->header.start = start;
  set->header.count = count;
  return size;
}

static long set_irqs(int device, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
                     enum payload payload, int eventfd) {
  union irq_set set;
  make_set(&set, flags, index, start, count, payload, eventfd);
  return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

// Whether the cases use a direct PCI device instead of the serial card.
static bool direct;

// A device whose interrupts can be set. The kernel's sample counts them in GET_INFO.
static struct vfio open_device(void) {
  struct vfio vfio = direct ? open_pci(0, kDevice) : open_vfio(kDevice);
  struct vfio_device_info info = {.argsz = sizeof(info)};
  if (ioctl(vfio.device, VFIO_DEVICE_GET_INFO, &info)) {
    give_up("GET_INFO");
  }
  return vfio;
}

static int open_once_more(int group) {
  return direct ? get_pci_device(group, pci_name(0)) : get_device_fd(group);
}

static void disable_all(int device) {
  set_irqs(device, kNone | kTrigger, kIntx, 0, 0, kNothing, -1);
  set_irqs(device, kNone | kTrigger, kMsi, 0, 0, kNothing, -1);
}

static const struct {
  const char* name;
  uint32_t flags, index, start, count;
  enum payload payload;
} kRows[] = {
    // Refused before the device sees it
    {"index.5", kNone | kTrigger, 5, 0, 1, kNothing},
    {"index.largest", kNone | kTrigger, UINT32_MAX, 0, 1, kNothing},
    {"flags.none", 0, kIntx, 0, 1, kNothing},
    {"flags.unknown", kNone | kTrigger | 1 << 6, kIntx, 0, 1, kNothing},
    {"flags.unknown_top", kNone | kTrigger | 1u << 31, kIntx, 0, 1, kNothing},
    {"flags.no_data_type", kTrigger, kIntx, 0, 1, kNothing},
    {"flags.two_data_types", kNone | kBool | kTrigger, kIntx, 0, 1, kTrue},
    {"flags.eventfd_and_bool", kEventfd | kBool | kTrigger, kIntx, 0, 1, kOneEventfd},
    {"range.wraps", kNone | kTrigger, kIntx, 1, UINT32_MAX, kNothing},
    {"range.count_largest", kNone | kTrigger, kIntx, 0, UINT32_MAX, kNothing},
    {"range.start_largest", kNone | kTrigger, kIntx, UINT32_MAX, 0, kNothing},
    {"range.start_5", kNone | kTrigger, kIntx, 5, 1, kNothing},
    {"range.count_6", kNone | kTrigger, kIntx, 0, 6, kNothing},
    {"payload.missing_eventfd", kEventfd | kTrigger, kIntx, 0, 1, kNothing},
    {"payload.missing_bool", kBool | kTrigger, kIntx, 0, 1, kNothing},
    {"payload.eventfd_one_byte", kEventfd | kTrigger, kIntx, 0, 1, kTrue},
    {"payload.second_eventfd_missing", kEventfd | kTrigger, kIntx, 0, 2, kOneEventfd},
    {"payload.none_with_payload", kNone | kTrigger, kIntx, 0, 0, kTwoEventfds},
    // No action, or several
    {"action.none", kNone, kIntx, 0, 1, kNothing},
    {"action.mask_and_unmask", kNone | kMask | kUnmask, kIntx, 0, 1, kNothing},
    {"action.all", kNone | kMask | kUnmask | kTrigger, kIntx, 0, 1, kNothing},
    {"action.none_msi", kNone, kMsi, 0, 1, kNothing},
    // INTx
    {"intx.trigger.disable", kNone | kTrigger, kIntx, 0, 0, kNothing},
    {"intx.trigger.disable_start_1", kNone | kTrigger, kIntx, 1, 0, kNothing},
    {"intx.trigger.none", kNone | kTrigger, kIntx, 0, 1, kNothing},
    {"intx.trigger.none_start_1", kNone | kTrigger, kIntx, 1, 1, kNothing},
    {"intx.trigger.none_count_2", kNone | kTrigger, kIntx, 0, 2, kNothing},
    {"intx.trigger.true", kBool | kTrigger, kIntx, 0, 1, kTrue},
    {"intx.trigger.false", kBool | kTrigger, kIntx, 0, 1, kFalse},
    {"intx.trigger.bool_count_0", kBool | kTrigger, kIntx, 0, 0, kNothing},
    {"intx.trigger.eventfd", kEventfd | kTrigger, kIntx, 0, 1, kOneEventfd},
    {"intx.trigger.eventfd_count_0", kEventfd | kTrigger, kIntx, 0, 0, kNothing},
    {"intx.trigger.eventfd_count_2", kEventfd | kTrigger, kIntx, 0, 2, kTwoEventfds},
    {"intx.trigger.eventfd_start_1", kEventfd | kTrigger, kIntx, 1, 1, kOneEventfd},
    {"intx.trigger.minus_one", kEventfd | kTrigger, kIntx, 0, 1, kMinusOne},
    {"intx.trigger.minus_two", kEventfd | kTrigger, kIntx, 0, 1, kMinusTwo},
    {"intx.trigger.closed_fd", kEventfd | kTrigger, kIntx, 0, 1, kClosedFd},
    {"intx.trigger.not_an_eventfd", kEventfd | kTrigger, kIntx, 0, 1, kNotAnEventfd},
    {"intx.mask.none", kNone | kMask, kIntx, 0, 1, kNothing},
    {"intx.mask.count_0", kNone | kMask, kIntx, 0, 0, kNothing},
    {"intx.mask.start_1", kNone | kMask, kIntx, 1, 1, kNothing},
    {"intx.mask.true", kBool | kMask, kIntx, 0, 1, kTrue},
    {"intx.mask.false", kBool | kMask, kIntx, 0, 1, kFalse},
    {"intx.mask.eventfd", kEventfd | kMask, kIntx, 0, 1, kOneEventfd},
    {"intx.mask.minus_one", kEventfd | kMask, kIntx, 0, 1, kMinusOne},
    {"intx.unmask.none", kNone | kUnmask, kIntx, 0, 1, kNothing},
    {"intx.unmask.count_2", kNone | kUnmask, kIntx, 0, 2, kNothing},
    {"intx.unmask.true", kBool | kUnmask, kIntx, 0, 1, kTrue},
    {"intx.unmask.false", kBool | kUnmask, kIntx, 0, 1, kFalse},
    {"intx.unmask.eventfd", kEventfd | kUnmask, kIntx, 0, 1, kOneEventfd},
    {"intx.unmask.minus_one", kEventfd | kUnmask, kIntx, 0, 1, kMinusOne},
    // MSI
    {"msi.trigger.disable", kNone | kTrigger, kMsi, 0, 0, kNothing},
    {"msi.trigger.disable_start_1", kNone | kTrigger, kMsi, 1, 0, kNothing},
    {"msi.trigger.none", kNone | kTrigger, kMsi, 0, 1, kNothing},
    {"msi.trigger.none_start_1", kNone | kTrigger, kMsi, 1, 1, kNothing},
    {"msi.trigger.true", kBool | kTrigger, kMsi, 0, 1, kTrue},
    {"msi.trigger.false", kBool | kTrigger, kMsi, 0, 1, kFalse},
    {"msi.trigger.eventfd", kEventfd | kTrigger, kMsi, 0, 1, kOneEventfd},
    {"msi.trigger.eventfd_count_0", kEventfd | kTrigger, kMsi, 0, 0, kNothing},
    {"msi.trigger.eventfd_count_2", kEventfd | kTrigger, kMsi, 0, 2, kTwoEventfds},
    {"msi.trigger.eventfd_start_1", kEventfd | kTrigger, kMsi, 1, 1, kOneEventfd},
    {"msi.trigger.minus_one", kEventfd | kTrigger, kMsi, 0, 1, kMinusOne},
    {"msi.trigger.closed_fd", kEventfd | kTrigger, kMsi, 0, 1, kClosedFd},
    {"msi.trigger.not_an_eventfd", kEventfd | kTrigger, kMsi, 0, 1, kNotAnEventfd},
    {"msi.mask.none", kNone | kMask, kMsi, 0, 1, kNothing},
    {"msi.mask.start_1", kNone | kMask, kMsi, 1, 1, kNothing},
    {"msi.unmask.none", kNone | kUnmask, kMsi, 0, 1, kNothing},
    {"msi.unmask.eventfd", kEventfd | kUnmask, kMsi, 0, 1, kOneEventfd},
    // What the card does not have
    {"msix.trigger.none", kNone | kTrigger, kMsix, 0, 1, kNothing},
    {"msix.trigger.disable", kNone | kTrigger, kMsix, 0, 0, kNothing},
    {"msix.trigger.eventfd", kEventfd | kTrigger, kMsix, 0, 1, kOneEventfd},
    {"err.trigger.none", kNone | kTrigger, kErr, 0, 1, kNothing},
    {"err.trigger.eventfd", kEventfd | kTrigger, kErr, 0, 1, kOneEventfd},
    {"req.trigger.none", kNone | kTrigger, kReq, 0, 1, kNothing},
    {"req.trigger.eventfd", kEventfd | kTrigger, kReq, 0, 1, kOneEventfd},
    {"req.mask.none", kNone | kMask, kReq, 0, 1, kNothing},
};

// Each row from each state: `signals` is how often the eventfd that was set before was signalled by
// the call, and `then` by a trigger of either kind after it, which tells what state the call left.
static void set_table(uint32_t enabled_index) {
  struct vfio vfio = open_device();
  const bool enabled = enabled_index == kIntx || enabled_index == kMsi;
  int before = make_eventfd();
  int in_call = make_eventfd();
  for (size_t i = 0; i < ARRAY_SIZE(kRows); i++) {
    disable_all(vfio.device);
    if (enabled &&
        set_irqs(vfio.device, kEventfd | kTrigger, enabled_index, 0, 1, kOneEventfd, before)) {
      give_up("SET_IRQS");
    }
    take_signals(before);
    take_signals(in_call);
    long result = set_irqs(vfio.device, kRows[i].flags, kRows[i].index, kRows[i].start,
                           kRows[i].count, kRows[i].payload, in_call);
    const int error = errno;
    const unsigned long long signals = take_signals(before);
    set_irqs(vfio.device, kNone | kTrigger, kIntx, 0, 1, kNothing, -1);
    set_irqs(vfio.device, kNone | kTrigger, kMsi, 0, 1, kNothing, -1);
    errno = error;
    check_out(kRows[i].name, result, "signals=%llu then=%llu,%llu", signals,
              (unsigned long long)take_signals(before), (unsigned long long)take_signals(in_call));
  }
}

static void set_disabled(void) { set_table(UINT32_MAX); }
static void set_intx(void) { set_table(kIntx); }
static void set_msi(void) { set_table(kMsi); }

static void argument(void) {
  struct vfio vfio = open_device();
  int eventfd = make_eventfd();
  union irq_set set;
  uint32_t size = make_set(&set, kNone | kTrigger, kIntx, 0, 0, kNothing, -1);
  check_argsz("none", vfio.device, VFIO_DEVICE_SET_IRQS, &set, size, size, NULL);
  size = make_set(&set, kEventfd | kTrigger, kIntx, 0, 1, kOneEventfd, eventfd);
  check_argsz("eventfd", vfio.device, VFIO_DEVICE_SET_IRQS, &set, sizeof(set.header), size, NULL);
  check_pointers("eventfd", vfio.device, VFIO_DEVICE_SET_IRQS, &set, size);
  // A bad payload is found before a wrong index's action is refused.
  set.header.index = kMsix;
  check_pointers("msix", vfio.device, VFIO_DEVICE_SET_IRQS, &set, size);
}

// An INTx interrupt masks itself, MSI does not.
static void delivery(void) {
  struct vfio vfio = open_device();
  int eventfd = make_eventfd();
  const struct {
    const char* name;
    uint32_t flags, index, count;
    enum payload payload;
  } steps[] = {
      {"intx.enable", kEventfd | kTrigger, kIntx, 1, kOneEventfd},
      {"intx.trigger", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.trigger_masked", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.unmask", kNone | kUnmask, kIntx, 1, kNothing},
      {"intx.trigger_unmasked", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.unmask_false", kBool | kUnmask, kIntx, 1, kFalse},
      {"intx.trigger_still_masked", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.unmask_true", kBool | kUnmask, kIntx, 1, kTrue},
      {"intx.mask", kNone | kMask, kIntx, 1, kNothing},
      {"intx.trigger_after_mask", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.unmask_again", kNone | kUnmask, kIntx, 1, kNothing},
      {"intx.trigger_true", kBool | kTrigger, kIntx, 1, kTrue},
      {"intx.swap_eventfd", kEventfd | kTrigger, kIntx, 1, kOneEventfd},
      {"intx.trigger_after_swap", kNone | kTrigger, kIntx, 1, kNothing},
      {"msi.enable_while_intx", kEventfd | kTrigger, kMsi, 1, kOneEventfd},
      {"intx.disable", kNone | kTrigger, kIntx, 0, kNothing},
      {"intx.disable_again", kNone | kTrigger, kIntx, 0, kNothing},
      {"intx.trigger_disabled", kNone | kTrigger, kIntx, 1, kNothing},
      {"intx.unmask_disabled", kNone | kUnmask, kIntx, 1, kNothing},
      {"msi.enable", kEventfd | kTrigger, kMsi, 1, kOneEventfd},
      {"msi.trigger", kNone | kTrigger, kMsi, 1, kNothing},
      {"msi.trigger_again", kNone | kTrigger, kMsi, 1, kNothing},
      {"intx.enable_while_msi", kEventfd | kTrigger, kIntx, 1, kOneEventfd},
      {"msi.bad_eventfd", kEventfd | kTrigger, kMsi, 1, kNotAnEventfd},
      {"msi.trigger_after_bad", kNone | kTrigger, kMsi, 1, kNothing},
      {"msi.enable_again", kEventfd | kTrigger, kMsi, 1, kOneEventfd},
      {"msi.remove_eventfd", kEventfd | kTrigger, kMsi, 1, kMinusOne},
      {"msi.trigger_removed", kNone | kTrigger, kMsi, 1, kNothing},
      {"intx.enable_after_msi", kEventfd | kTrigger, kIntx, 1, kOneEventfd},
      {"intx.remove_eventfd", kEventfd | kTrigger, kIntx, 1, kMinusOne},
      {"intx.trigger_removed", kNone | kTrigger, kIntx, 1, kNothing},
  };
  for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
    long result = set_irqs(vfio.device, steps[i].flags, steps[i].index, 0, steps[i].count,
                           steps[i].payload, eventfd);
    check_out(steps[i].name, result, "signals=%llu", (unsigned long long)take_signals(eventfd));
  }
}

// The device keeps the eventfd, not the number.
static void eventfd_lifetime(void) {
  struct vfio vfio = open_device();
  int eventfd = make_eventfd();
  int copy = dup(eventfd);
  check("enable", set_irqs(vfio.device, kEventfd | kTrigger, kMsi, 0, 1, kOneEventfd, eventfd));
  close(eventfd);
  check("trigger", set_irqs(vfio.device, kNone | kTrigger, kMsi, 0, 1, kNothing, -1));
  check_value("signals", "%llu", (unsigned long long)take_signals(copy));
  close(copy);
  check("trigger.closed", set_irqs(vfio.device, kNone | kTrigger, kMsi, 0, 1, kNothing, -1));

  // A device that was closed has no interrupts when it is opened again.
  eventfd = make_eventfd();
  check("enable.again",
        set_irqs(vfio.device, kEventfd | kTrigger, kMsi, 0, 1, kOneEventfd, eventfd));
  int second = open_once_more(vfio.group);
  close(vfio.device);
  check("trigger.one_left", set_irqs(second, kNone | kTrigger, kMsi, 0, 1, kNothing, -1));
  close(second);
  vfio.device = open_once_more(vfio.group);
  check("trigger.reopened", set_irqs(vfio.device, kNone | kTrigger, kMsi, 0, 1, kNothing, -1));
  check_value("signals.reopened", "%llu", (unsigned long long)take_signals(eventfd));

  // A reset leaves interrupts set up.
  check("enable.reset",
        set_irqs(vfio.device, kEventfd | kTrigger, kMsi, 0, 1, kOneEventfd, eventfd));
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check("trigger.reset", set_irqs(vfio.device, kNone | kTrigger, kMsi, 0, 1, kNothing, -1));
  check_value("signals.reset", "%llu", (unsigned long long)take_signals(eventfd));
}

static const struct test_case kCases[] = {
    {"argument", argument}, {"disabled", set_disabled}, {"intx", set_intx},
    {"msi", set_msi},       {"delivery", delivery},     {"eventfd", eventfd_lifetime},
};

const struct section irq_section = {
    .name = "irq",
    .summary = "SET_IRQS and the eventfds",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};

static void on_pci(void (*run)(void)) {
  direct = true;
  run();
}

static void pci_argument(void) { on_pci(argument); }
static void pci_disabled(void) { on_pci(set_disabled); }
static void pci_intx(void) { on_pci(set_intx); }
static void pci_msi(void) { on_pci(set_msi); }
static void pci_delivery(void) { on_pci(delivery); }
static void pci_eventfd(void) { on_pci(eventfd_lifetime); }

static const struct test_case kPciCases[] = {
    {"argument", pci_argument}, {"disabled", pci_disabled}, {"intx", pci_intx},
    {"msi", pci_msi},           {"delivery", pci_delivery}, {"eventfd", pci_eventfd},
};

const struct section pci_irq_section = {
    .name = "pci_irq",
    .summary = "the same on a direct PCI device",
    .cases = kPciCases,
    .num_cases = ARRAY_SIZE(kPciCases),
    .needs_pci = true,
};
