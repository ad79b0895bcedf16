// Migration: the state machine, and the data that a serial card saves and resumes from.

#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "feature.h"

static const struct {
  const char* name;
  uint32_t value;
} kStates[] = {
    {"ERROR", VFIO_DEVICE_STATE_ERROR},
    {"STOP", VFIO_DEVICE_STATE_STOP},
    {"RUNNING", VFIO_DEVICE_STATE_RUNNING},
    {"STOP_COPY", VFIO_DEVICE_STATE_STOP_COPY},
    {"RESUMING", VFIO_DEVICE_STATE_RESUMING},
    {"RUNNING_P2P", VFIO_DEVICE_STATE_RUNNING_P2P},
    {"PRE_COPY", VFIO_DEVICE_STATE_PRE_COPY},
    {"PRE_COPY_P2P", VFIO_DEVICE_STATE_PRE_COPY_P2P},
    {"8", 8},
    {"largest", UINT32_MAX},
};
enum { kNumRealStates = 8 };

static const char* state_name(uint32_t value) {
  return value < kNumRealStates ? kStates[value].name : text("%u", value);
}

// Moves the device, and returns the data fd in *data_fd (-1 if there is none).
static long set_state(int device, uint32_t state, int* data_fd) {
  struct vfio_device_feature_mig_state request = {.device_state = state, .data_fd = -2};
  long result = device_feature(device, kSet | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &request,
                               sizeof(request));
  *data_fd = request.data_fd;
  return result;
}

static void must_set_state(int device, uint32_t state, int* data_fd) {
  if (set_state(device, state, data_fd)) {
    give_up(text("to %s", state_name(state)));
  }
}

static const char* current_state(int device) {
  struct vfio_device_feature_mig_state answer = {.data_fd = -2};
  const int error = errno;
  if (device_feature(device, kGet | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &answer,
                     sizeof(answer))) {
    return "?";
  }
  errno = error;
  return text("%s,%d", state_name(answer.device_state), answer.data_fd);
}

static void report_state_change(const char* name, int device, uint32_t state, int* data_fd) {
  long result = set_state(device, state, data_fd);
  const char* fd = *data_fd >= 0 ? "yes" : text("%d", *data_fd);
  check_out(name, result, "data_fd=%s state=%s", fd, current_state(device));
}

static void support(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_device_feature_migration migration = {.flags = ~0ull};
  long result = device_feature(vfio.device, kGet | VFIO_DEVICE_FEATURE_MIGRATION, &migration,
                               sizeof(migration));
  check_out("flags", result, "flags=%#llx", (unsigned long long)migration.flags);
  struct vfio_device_feature_mig_data_size size = {.stop_copy_length = ~0ull};
  result =
      device_feature(vfio.device, kGet | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, &size, sizeof(size));
  check_out("data_size", result, "stop_copy_length=%llu",
            (unsigned long long)size.stop_copy_length);
  check_value("initial_state", "%s", current_state(vfio.device));
}

// Each pair of states. A device that is to resume has been given nothing.
static void arcs(void) {
  struct vfio vfio = open_vfio(kDevice);
  for (size_t from = 1; from < kNumRealStates; from++) {
    for (size_t to = 0; to < ARRAY_SIZE(kStates); to++) {
      int from_fd, to_fd;
      if (ioctl(vfio.device, VFIO_DEVICE_RESET)) {
        give_up("RESET");
      }
      must_set_state(vfio.device, kStates[from].value, &from_fd);
      report_state_change(text("%s.%s", kStates[from].name, kStates[to].name), vfio.device,
                          kStates[to].value, &to_fd);
      if (from_fd >= 0) {
        close(from_fd);
      }
      if (to_fd >= 0) {
        close(to_fd);
      }
    }
  }
}

static void argument(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_device_feature_mig_state state = {.device_state = VFIO_DEVICE_STATE_STOP};
  const uint32_t flags = kSet | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
  union feature set;
  make_feature(&set, flags, &state, sizeof(state));
  const size_t size = set.header.argsz;
  check_argsz("set", vfio.device, VFIO_DEVICE_FEATURE, &set, sizeof(set.header), size, NULL);
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check_pointers("set", vfio.device, VFIO_DEVICE_FEATURE, &set, size);
  check_value("state", "%s", current_state(vfio.device));
  // The new fd has nowhere to go: the step was taken all the same, and the fd is closed.
  state.device_state = VFIO_DEVICE_STATE_STOP_COPY;
  make_feature(&set, flags, &state, sizeof(state));
  check_pointers("stop_copy", vfio.device, VFIO_DEVICE_FEATURE, &set, size);
  check_value("stop_copy.state", "%s", current_state(vfio.device));
}

// The state goes on from one open of the device to the next; the data does not.
static void reopening(void) {
  struct vfio vfio = open_vfio(kDevice);
  int data_fd;
  report_state_change("stop_copy", vfio.device, VFIO_DEVICE_STATE_STOP_COPY, &data_fd);
  char byte;
  check("read", read(data_fd, &byte, 1));
  close(vfio.device);
  check("read.device_closed", read(data_fd, &byte, 1));
  vfio.device = get_device_fd(vfio.group);
  check_value("state", "%s", current_state(vfio.device));
  check("read.reopened", read(data_fd, &byte, 1));
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check_value("state.reset", "%s", current_state(vfio.device));
}

static void scratch_and_fifo(int device, uint8_t scratch, const char* bytes) {
  write8(device, 0, UART_LCR, 0);
  write8(device, 0, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
  write8(device, 0, UART_SCR, scratch);
  for (; *bytes; bytes++) {
    write8(device, 0, UART_TX, (uint8_t)*bytes);
  }
}

static const char* fifo_text(int device) {
  char received[20] = "";
  for (size_t i = 0; i + 1 < sizeof(received) && read8(device, 0, UART_LSR) & UART_LSR_DR; i++) {
    received[i] = (char)read8(device, 0, UART_RX);
  }
  return text("%s", received);
}

// Takes what a stopped device has to give.
static size_t save(int device, char* data, size_t size) {
  int data_fd;
  must_set_state(device, VFIO_DEVICE_STATE_STOP_COPY, &data_fd);
  ssize_t length = read(data_fd, data, size);
  if (length < 0) {
    give_up("read");
  }
  close(data_fd);
  must_set_state(device, VFIO_DEVICE_STATE_STOP, &data_fd);
  return (size_t)length;
}

static void data_format(void) {
  struct vfio vfio = open_vfio(kDevice);
  write8(vfio.device, 0, UART_LCR, UART_LCR_DLAB);  // Selecting the divisor clears it.
  write8(vfio.device, 0, UART_LCR, 0);
  write8(vfio.device, 0, UART_IER, 0);
  write8(vfio.device, 0, UART_MCR, 0);
  scratch_and_fifo(vfio.device, 0x5a, "uvfio");
  char data[256];
  size_t length = save(vfio.device, data, sizeof(data));
  check_value("length", "%zu", length);
  check_value("magic", "%s", hex(data, 8));
  check_value("major", "%s", hex(data + 8, 4));
  check_value("minor", "%s", hex(data + 12, 4));
  check_value("nr_ports", "%s", hex(data + 16, 4));
  check_value("flags", "%s", hex(data + 20, 4));
  check_value("port.registers", "%s", hex(data + 24, 8));
  check_value("port.fifo_start", "%s", hex(data + 32, 5));
  check_value("port.head_tail_count", "%s", hex(data + 48, 3));
  check_value("port.dlab_overrun", "%s", hex(data + 51, 2));
  check_value("port.divisor", "%s", hex(data + 54, 2));
  check_value("port.fcr_fifo_size_trigger", "%s", hex(data + 56, 3));
}

static void save_and_resume(void) {
  struct vfio vfio = open_vfio(kDevice);
  scratch_and_fifo(vfio.device, 0x5a, "hello");
  char data[256];
  const size_t length = save(vfio.device, data, sizeof(data));
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  scratch_and_fifo(vfio.device, 0xa5, "");
  int data_fd, none;
  report_state_change("resuming", vfio.device, VFIO_DEVICE_STATE_RESUMING, &data_fd);
  check("write.half", write(data_fd, data, length / 2));
  report_state_change("stop.half", vfio.device, VFIO_DEVICE_STATE_STOP, &none);
  check("write.rest", write(data_fd, data + length / 2, length - length / 2));
  check("write.more", write(data_fd, data, 1));
  check_value("scratch.not_yet", "%#x", read8(vfio.device, 0, UART_SCR));
  report_state_change("running", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check_value("scratch", "%#x", read8(vfio.device, 0, UART_SCR));
  check_value("fifo", "%s", fifo_text(vfio.device));
  check("write.after", write(data_fd, data, 1));
  check("ioctl.after", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, 0));
}

// What the saving side's fd allows.
static void saving_fd(void) {
  struct vfio vfio = open_vfio(kDevice);
  int data_fd, none;
  report_state_change("stop_copy", vfio.device, VFIO_DEVICE_STATE_STOP_COPY, &data_fd);
  char data[256];
  check_value("access_mode", "%d", fcntl(data_fd, F_GETFL) & O_ACCMODE);
  check_value("close_on_exec", "%d", fcntl(data_fd, F_GETFD) & FD_CLOEXEC);
  check("pread", pread(data_fd, data, 1, 0));
  check("lseek", lseek(data_fd, 0, SEEK_SET));
  check("write", write(data_fd, data, 1));
  check("read.null", read(data_fd, null_pointer, 8));
  check("read.none", read(data_fd, data, 0));
  check("read.10", read(data_fd, data, 10));
  check("read.rest", read(data_fd, data, sizeof(data)));
  check("read.end", read(data_fd, data, sizeof(data)));
  struct vfio_precopy_info info = {.argsz = sizeof(info)};
  check("precopy_info", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &info));
  report_state_change("stop", vfio.device, VFIO_DEVICE_STATE_STOP, &none);
  check("read.stopped", read(data_fd, data, sizeof(data)));
  check("precopy_info.stopped", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &info));
  close(data_fd);
  report_state_change("stop_copy.again", vfio.device, VFIO_DEVICE_STATE_STOP_COPY, &data_fd);
  check("read.again", read(data_fd, data, sizeof(data)));
  report_state_change("running", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check("read.running", read(data_fd, data, sizeof(data)));
}

static const char* describe_precopy(const void* argument) {
  const struct vfio_precopy_info* info = argument;
  return text("flags=%#x initial=%llu dirty=%llu", info->flags,
              (unsigned long long)info->initial_bytes, (unsigned long long)info->dirty_bytes);
}

// Saving starts while the device runs; one fd serves until the end.
static void pre_copy(void) {
  struct vfio vfio = open_vfio(kDevice);
  scratch_and_fifo(vfio.device, 0x11, "abc");
  int data_fd, none;
  report_state_change("pre_copy", vfio.device, VFIO_DEVICE_STATE_PRE_COPY, &data_fd);
  const struct vfio_precopy_info info = {.flags = 0xffff, .initial_bytes = 99, .dirty_bytes = 99};
  check_argsz("info", data_fd, VFIO_MIG_GET_PRECOPY_INFO, &info, sizeof(info), sizeof(info),
              describe_precopy);
  struct vfio_precopy_info whole = {.argsz = sizeof(whole)};
  check_pointers("info", data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole, sizeof(whole));
  check("other_ioctl", ioctl(data_fd, VFIO_DEVICE_RESET));
  char data[256];
  check("read.10", read(data_fd, data, 10));
  long result = ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole);
  check_out("info.after_10", result, "%s", describe_precopy(&whole));
  check("read.rest", read(data_fd, data, sizeof(data)));
  result = ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole);
  check_out("info.after_rest", result, "%s", describe_precopy(&whole));
  check("read.end", read(data_fd, data, sizeof(data)));
  write8(vfio.device, 0, UART_SCR, 0x22);  // The device still runs.
  report_state_change("pre_copy_p2p", vfio.device, VFIO_DEVICE_STATE_PRE_COPY_P2P, &none);
  result = ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole);
  check_out("info.p2p", result, "%s", describe_precopy(&whole));
  report_state_change("stop_copy", vfio.device, VFIO_DEVICE_STATE_STOP_COPY, &none);
  check("info.stop_copy", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole));
  result = read(data_fd, data, sizeof(data));
  check_out("read.stop_copy", result, "scratch=%s", result > 8 ? hex(data + 7, 1) : "-");
  report_state_change("running", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check("read.running", read(data_fd, data, sizeof(data)));
  check("info.running", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &whole));
  close(data_fd);

  report_state_change("abandoned.pre_copy", vfio.device, VFIO_DEVICE_STATE_PRE_COPY, &data_fd);
  report_state_change("abandoned.running", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check("abandoned.read", read(data_fd, data, sizeof(data)));

  report_state_change("reset.pre_copy", vfio.device, VFIO_DEVICE_STATE_PRE_COPY, &data_fd);
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check_value("reset.state", "%s", current_state(vfio.device));
  check("reset.read", read(data_fd, data, sizeof(data)));
}

// What the resuming side refuses.
static void bad_data(void) {
  struct vfio vfio = open_vfio(kDevice);
  char good[256];
  const size_t length = save(vfio.device, good, sizeof(good));
  const struct {
    const char* name;
    size_t byte;    // This one is changed,
    size_t length;  // and this many are written.
  } rows[] = {
      {"good", sizeof(good) - 1, length},
      {"magic", 0, length},
      {"major", 8, length},
      {"minor", 12, length},
      {"nr_ports", 16, length},
      {"flags", 20, length},
      {"header_only", sizeof(good) - 1, 24},
      {"nothing", sizeof(good) - 1, 0},
      {"one_short", sizeof(good) - 1, length - 1},
      {"one_long", sizeof(good) - 1, length + 1},
      {"magic_first_byte", 0, 1},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    char data[sizeof(good)];
    memcpy(data, good, sizeof(data));
    data[rows[i].byte] ^= 0x40;
    int data_fd, none;
    if (ioctl(vfio.device, VFIO_DEVICE_RESET)) {
      give_up("RESET");
    }
    must_set_state(vfio.device, VFIO_DEVICE_STATE_RESUMING, &data_fd);
    check(text("%s.write", rows[i].name), write(data_fd, data, rows[i].length));
    report_state_change(text("%s.stop", rows[i].name), vfio.device, VFIO_DEVICE_STATE_STOP, &none);
    close(data_fd);
  }
  int data_fd;
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  must_set_state(vfio.device, VFIO_DEVICE_STATE_RESUMING, &data_fd);
  check_value("access_mode", "%d", fcntl(data_fd, F_GETFL) & O_ACCMODE);
  check("pwrite", pwrite(data_fd, good, 1, 0));
  check("read", read(data_fd, good, 1));
  check("write.null", write(data_fd, null_pointer, 8));
  check("precopy_info", ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, 0));
}

// After an error in a header the device takes no harm: a reset and good data put it right.
static void recovery(void) {
  struct vfio vfio = open_vfio(kDevice);
  scratch_and_fifo(vfio.device, 0x77, "again");
  char data[256];
  const size_t length = save(vfio.device, data, sizeof(data));
  int data_fd, none;
  must_set_state(vfio.device, VFIO_DEVICE_STATE_RESUMING, &data_fd);
  check("write.garbage", write(data_fd, "garbage garbage garbage garbage", 30));
  report_state_change("running", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check("reset", ioctl(vfio.device, VFIO_DEVICE_RESET));
  check_value("state", "%s", current_state(vfio.device));
  close(data_fd);
  must_set_state(vfio.device, VFIO_DEVICE_STATE_RESUMING, &data_fd);
  for (size_t i = 0; i < length; i++) {
    if (write(data_fd, data + i, 1) != 1) {
      give_up("write");
    }
  }
  report_state_change("running.byte_by_byte", vfio.device, VFIO_DEVICE_STATE_RUNNING, &none);
  check_value("scratch", "%#x", read8(vfio.device, 0, UART_SCR));
  check_value("fifo", "%s", fifo_text(vfio.device));
}

// A program that knows of the second version of the pre-copy protocol says so once an open.
static void precopy_v2(void) {
  struct vfio vfio = open_vfio(kDevice);
  const uint32_t feature = VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2;
  check("probe", device_feature(vfio.device, kProbe | kSet | feature, NULL, 0));
  check("set", device_feature(vfio.device, kSet | feature, NULL, 0));
  check("set.again", device_feature(vfio.device, kSet | feature, NULL, 0));
  int data_fd;
  report_state_change("pre_copy", vfio.device, VFIO_DEVICE_STATE_PRE_COPY, &data_fd);
  struct vfio_precopy_info info = {.argsz = sizeof(info), .flags = 0xffff};
  long result = ioctl(data_fd, VFIO_MIG_GET_PRECOPY_INFO, &info);
  check_out("info", result, "%s", describe_precopy(&info));
  check("set.in_pre_copy", device_feature(vfio.device, kSet | feature, NULL, 0));
}

// The state of the device under test is the next case's starting point.
static void leave_running(void) {
  struct vfio vfio = open_vfio(kDevice);
  ioctl(vfio.device, VFIO_DEVICE_RESET);
  close_vfio(&vfio);
}

static const struct test_case kCases[] = {
    {"support", support},         {"arcs", arcs},
    {"argument", argument},       {"reopening", reopening},
    {"data_format", data_format}, {"save_and_resume", save_and_resume},
    {"saving_fd", saving_fd},     {"pre_copy", pre_copy},
    {"bad_data", bad_data},       {"recovery", recovery},
    {"precopy_v2", precopy_v2},
};

const struct section migration_section = {
    .name = "migration",
    .summary = "the migration states and data",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
    .clean = leave_running,
};
