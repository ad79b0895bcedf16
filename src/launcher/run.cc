#include "launcher/run.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/log.h"
#include "launcher/models.h"
#include "launcher/mount_namespace.h"
#include "launcher/notify_filter.h"
#include "launcher/supervisor.h"

namespace uvfio::launcher {
namespace {

// One more than the highest group of the machine, so that ours can stand beside them.
unsigned first_free_group() {
  unsigned first = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/kernel/iommu_groups", error)) {
    const std::string name = entry.path().filename();
    unsigned number = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size())
      first = std::max(first, number + 1);
  }
  return first;
}

// Where the program finds its devices.
void set_environment(const std::vector<std::shared_ptr<mdev::Device>>& devices) {
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const auto& device = *devices[i];
    const std::string suffix = "_" + std::to_string(i);
    if (i == 0) setenv("UVFIO_MDEV", device.name().c_str(), 1);
    setenv(("UVFIO_MDEV" + suffix).c_str(), device.name().c_str(), 1);
    setenv(("UVFIO_GROUP" + suffix).c_str(), device.vfio_device()->group().node_name().c_str(), 1);
    setenv(("UVFIO_SYSFS" + suffix).c_str(), ("/sys/bus/mdev/devices/" + device.name()).c_str(), 1);
  }
}

// The signals that end programs, and the end of a child.
sigset_t supervised_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&set, signal);
  return set;
}

// Parent and child talk over a socket pair: the parent says "go", the child answers with the
// listener of its filter, or with the reason why there is none.
Outcome<Fd> receive_listener(const Fd& socket) {
  std::array<char, 1024> text{};
  iovec part{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (size <= 0) return failure("the child process ended before it was ready");
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message);
      header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return Fd(fd);
  }
  return std::unexpected(std::string(text.data(), static_cast<std::size_t>(size)));
}

void send_listener(const Fd& socket, const Outcome<Fd>& listener) {
  std::string text = listener ? "ready" : listener.error();
  iovec part{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (listener) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = listener->get();
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  static_cast<void>(sendmsg(socket.get(), &message, MSG_NOSIGNAL));
}

// The child: waits until everything is in place, then becomes the program.
[[noreturn]] void become_program(const RunOptions& options, const Fd& socket,
                                 const sigset_t& mask) {
  char go = 0;
  if (read(socket.get(), &go, 1) != 1) _exit(kExitFailed);  // the parent has said why
  {
    const auto listener = load_notify_filter();
    send_listener(socket, listener);
    if (!listener) _exit(kExitFailed);
  }
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  std::vector<char*> arguments;
  for (const auto& argument : options.command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  const int error = errno;
  std::fprintf(stderr, "uvfio: cannot run %s: %s\n", arguments[0], strerror(error));
  _exit(error == ENOENT || error == ENOTDIR ? kExitNotFound : kExitNotExecutable);
}

// Waits for the child and passes signals on to it. Returns the exit status of `uvfio run`.
int wait_for_program(pid_t child) {
  const sigset_t signals = supervised_signals();
  const Fd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  for (;;) {
    std::array<pollfd, 2> ready{pollfd{.fd = pidfd.get(), .events = POLLIN, .revents = 0},
                                pollfd{.fd = signal_fd.get(), .events = POLLIN, .revents = 0}};
    if (poll(ready.data(), ready.size(), -1) < 0) continue;
    if (ready[1].revents != 0) {
      signalfd_siginfo info{};
      while (read(signal_fd.get(), &info, sizeof info) == sizeof info) {
        // What the terminal sends reaches the program by itself: it is in the same process group.
        if (info.ssi_code != SI_KERNEL) kill(child, static_cast<int>(info.ssi_signo));
      }
    }
    if (ready[0].revents == 0) continue;
    int status = 0;
    if (waitpid(child, &status, 0) != child) return kExitFailed;
    return WIFSIGNALED(status) ? kExitSignal + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The child process, killed if it is still there when this goes.
class Child {
 public:
  Child(pid_t pid, Fd socket) : pid_(pid), socket_(std::move(socket)) {}
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;

  Outcome<Fd> go() {
    if (write(socket_.get(), "g", 1) != 1)
      return failure("the child process ended before it was ready");
    auto listener = receive_listener(socket_);
    socket_.reset();
    return listener;
  }
  int wait() { return wait_for_program(std::exchange(pid_, 0)); }

 private:
  pid_t pid_;
  Fd socket_;
};

Outcome<int> try_run(const RunOptions& options) {
  Host host(first_free_group());
  auto models = add_models(host);
  if (!models) return std::unexpected(models.error());
  auto devices = create_devices(host, options.topology);
  if (!devices) return std::unexpected(devices.error());
  if (auto entered = enter_mount_namespace(); !entered) return std::unexpected(entered.error());

  // Everything that ends programs waits for wait_for_program; the program itself starts as we did.
  const sigset_t signals = supervised_signals();
  sigset_t mask;
  sigprocmask(SIG_BLOCK, &signals, &mask);

  // The child exists before the first thread: what it does between fork and exec is not restricted
  // then.
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return failure("cannot make a socket pair: {}", strerror(errno));
  }
  Fd parent_end(ends[0]);
  Fd child_end(ends[1]);
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return failure("cannot fork: {}", strerror(errno));
  if (pid == 0) {
    parent_end.reset();
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // no orphan without its devices
    if (getppid() != parent) _exit(kExitFailed);
    set_environment(*devices);
    become_program(options, child_end, mask);
  }
  child_end.reset();
  Child child(pid, std::move(parent_end));
  devices->clear();

  raise_file_limit();
  auto server = nodes::Server::create(host, {.passthrough = options.passthrough});
  if (!server) return std::unexpected(server.error());
  if (auto laid = overlay((*server)->root()); !laid) return std::unexpected(laid.error());
  auto listener = child.go();
  if (!listener) return std::unexpected(listener.error());
  const Supervisor supervisor(**server, std::move(*listener));
  return child.wait();
}

}  // namespace

int run(const RunOptions& options) {
  const auto status = try_run(options);
  if (status) return *status;
  std::fprintf(stderr, "uvfio: %s\n", status.error().c_str());
  return kExitFailed;
}

}  // namespace uvfio::launcher
