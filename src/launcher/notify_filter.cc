#include "launcher/notify_filter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <vector>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV  // Linux 5.19
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace uvfio::launcher {
namespace {

// FEATURE returns a descriptor inside its struct (migration data_fd).
constexpr std::array<unsigned, 2> kCommands{VFIO_GROUP_GET_DEVICE_FD, VFIO_DEVICE_FEATURE};

// libseccomp makes the program; it is loaded here because libseccomp 2.5 knows no
// WAIT_KILLABLE_RECV, without which a signal to the client could restart an ioctl that has already
// opened the device.
Outcome<std::vector<sock_filter>> build_program() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_ALLOW),
                                                                seccomp_release);
  if (!filter) return failure("libseccomp cannot make a filter");
  int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW);
  for (const unsigned command : kCommands) {
    // The kernel looks at the low half of the argument only.
    if (error == 0) {
      error = seccomp_rule_add(filter.get(), SCMP_ACT_NOTIFY, SCMP_SYS(ioctl), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, command));
    }
  }
  const Fd file(memfd_create("seccomp", MFD_CLOEXEC));
  if (error == 0) error = seccomp_export_bpf(filter.get(), file.get());
  struct stat status {};
  if (error != 0 || fstat(file.get(), &status) != 0) {
    return failure("libseccomp cannot build the filter: {}", strerror(-error));
  }
  std::vector<sock_filter> program(static_cast<std::size_t>(status.st_size) / sizeof(sock_filter));
  if (pread(file.get(), program.data(), program.size() * sizeof(sock_filter), 0) !=
      status.st_size) {
    return failure("cannot read the seccomp filter: {}", strerror(errno));
  }
  return program;
}

int load(const sock_fprog& program, unsigned long flags) {
  return static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

}  // namespace

Outcome<Fd> load_notify_filter() {
  auto instructions = build_program();
  if (!instructions) return std::unexpected(instructions.error());
  const sock_fprog program{.len = static_cast<unsigned short>(instructions->size()),
                           .filter = instructions->data()};
  constexpr unsigned long kListener = SECCOMP_FILTER_FLAG_NEW_LISTENER;
  const auto try_load = [&] {
    int fd = load(program, kListener | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    if (fd < 0 && errno == EINVAL) fd = load(program, kListener);
    return fd;
  };
  int listener = try_load();
  if (listener < 0 && errno == EACCES) {
    // Without CAP_SYS_ADMIN the program gives up set-user-id programs first.
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    listener = try_load();
  }
  if (listener >= 0) return Fd(listener);
  switch (errno) {
    case EBUSY:
      return failure(
          "seccomp already has a listener for this process (another uvfio run, or a container "
          "runtime). "
          "Start uvfio outside of it.");
    case ENOSYS:
    case EINVAL:
      return failure(
          "seccomp user notification is missing. Linux 5.14 or later is needed, with "
          "CONFIG_SECCOMP_FILTER.");
    default:
      return failure("cannot load the seccomp filter: {}", strerror(errno));
  }
}

}  // namespace uvfio::launcher
