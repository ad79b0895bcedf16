#include "launcher/program.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>

#include "launcher/mount_namespace.h"
#include "launcher/notify_filter.h"

namespace uvfio::launcher {
namespace {

// Signals that somebody sends to uvfio and means for the program.
constexpr std::array kPassedOn{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

sigset_t awaited_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kPassedOn) sigaddset(&set, signal);
  sigaddset(&set, SIGCHLD);
  return set;
}

// How this process treats signals: saved before fork() changes it, for the program to start with.
struct SignalState {
  sigset_t mask{};
  struct sigaction child {};
  struct sigaction file_size {};

  // Ours from now on: SIGCHLD must not be ignored, or children could not be waited for. A write
  // beyond RLIMIT_FSIZE, to a disk's image for a client, is to fail and not to end the server.
  static SignalState exchange() {
    SignalState before;
    const struct sigaction defaults {};
    sigaction(SIGCHLD, &defaults, &before.child);
    struct sigaction ignore {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &ignore, &before.file_size);
    const sigset_t awaited = awaited_signals();
    sigprocmask(SIG_BLOCK, &awaited, &before.mask);
    return before;
  }
  void restore() const {
    sigaction(SIGCHLD, &child, nullptr);
    sigaction(SIGXFSZ, &file_size, nullptr);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
  }
};

constexpr const char* kReady = "ready";

// Parent and child talk over a socket pair of messages: the parent sends the variables NAME=VALUE
// of the environment and then the server's root; the child answers with the listener of its filter,
// or with a reason why not; the parent says that it has it.
void send_fd(const Fd& socket, const Outcome<int>& fd) {
  std::string text = fd ? kReady : fd.error();
  iovec part{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &*fd, sizeof(int));
  }
  static_cast<void>(sendmsg(socket.get(), &message, MSG_NOSIGNAL));
}

struct Message {
  Fd fd;  // none: only text
  std::string text;
};

// Nothing: the other end has gone.
std::optional<Message> receive(const Fd& socket) {
  Message received;
  std::array<char, 1024> text{};
  iovec part{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (size <= 0) return std::nullopt;
  received.text.assign(text.data(), static_cast<std::size_t>(size));
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message);
      header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    received.fd = Fd(fd);
  }
  return received;
}

// Variables of an uvfio further out would name devices that are not here.
bool is_ours(std::string_view variable) {
  return variable.starts_with("UVFIO_MDEV") || variable.starts_with("UVFIO_PCI") ||
         variable.starts_with("UVFIO_GROUP_") || variable.starts_with("UVFIO_SYSFS_");
}

void clear_environment() {
  std::vector<std::string> old;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (is_ours(text)) old.emplace_back(text.substr(0, text.find('=')));
  }
  for (const auto& name : old) unsetenv(name.c_str());
}

// Sets the environment; returns the server's root, or no Fd if the parent has given up.
Fd receive_start(const Fd& socket) {
  clear_environment();
  while (auto message = receive(socket)) {
    if (message->fd) return std::move(message->fd);
    const auto equals = message->text.find('=');
    setenv(message->text.substr(0, equals).c_str(), message->text.substr(equals + 1).c_str(), 1);
  }
  return Fd();
}

// The child: waits until everything is in place, then becomes the program.
[[noreturn]] void become_program(const std::vector<std::string>& command, const Fd& socket,
                                 const SignalState& signals) {
  const Fd root = receive_start(socket);
  if (!root) _exit(kExitFailed);  // the parent has said why
  // Here, and not in the process that serves those files: a process that is killed while it waits
  // for itself can never end.
  if (auto laid = overlay(root); !laid) {
    send_fd(socket, std::unexpected(laid.error()));
    _exit(kExitFailed);
  }
  // A working directory below /dev or /sys is now covered: enter what is on top.
  std::error_code error;
  if (const auto directory = std::filesystem::current_path(error); !error) {
    std::filesystem::current_path(directory, error);
  }
  {
    const auto listener = load_notify_filter();
    if (!listener) {
      send_fd(socket, std::unexpected(listener.error()));
      _exit(kExitFailed);
    }
    send_fd(socket, listener->get());
    if (!receive(socket)) _exit(kExitFailed);  // it did not get there
  }
  signals.restore();
  std::vector<char*> arguments;
  for (const auto& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  const int reason = errno;
  std::fprintf(stderr, "uvfio: cannot run %s: %s\n", arguments[0], strerror(reason));
  _exit(reason == ENOENT || reason == ENOTDIR ? kExitNotFound : kExitNotExecutable);
}

// The children of this process, found by the parent's pid in /proc/<pid>/stat.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr !=
        name.data() + name.size()) {
      continue;
    }
    std::ifstream file(entry.path() / "stat");
    const std::string stat(std::istreambuf_iterator<char>(file), {});
    char state = 0;
    pid_t parent = 0;
    // The name in parentheses may contain anything, parentheses too.
    if (const auto end = stat.rfind(')');
        end != std::string::npos &&
        std::sscanf(stat.c_str() + end + 1, " %c %d", &state, &parent) == 2 && parent == getpid()) {
      found.push_back(pid);
    }
  }
  return found;
}

bool has_children() {
  siginfo_t info{};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

// Kills what the program has left running: it comes to us, and without the server it has no
// devices.
void end_orphans() {
  while (has_children()) {
    // All before the first wait: one may be stuck in a removal until another lets go of the device.
    std::vector<pid_t> killed;
    for (const pid_t pid : children()) {
      // Ours and not waited for yet, so it is no other process of that number. EPERM: it has become
      // another user's, who may keep it.
      if (kill(pid, SIGKILL) == 0) killed.push_back(pid);
    }
    if (killed.empty()) return;
    for (const pid_t pid : killed) waitpid(pid, nullptr, 0);
  }
}

// Reaps what has ended; the wait status of `program` if it is among it.
std::optional<int> reap(pid_t program) {
  std::optional<int> result;
  int status = 0;
  for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == program) result = status;
  }
  return result;
}

}  // namespace

Outcome<Program> Program::fork(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return failure("cannot make a socket pair: {}", strerror(errno));
  }
  Fd parent_end(ends[0]);
  Fd child_end(ends[1]);
  const sigset_t awaited = awaited_signals();
  Fd awaited_fd(signalfd(-1, &awaited, SFD_CLOEXEC));
  if (!awaited_fd) return failure("cannot wait for a program: {}", strerror(errno));
  // What the program leaves running becomes our child, not that of the machine's init.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const SignalState signals = SignalState::exchange();
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return failure("cannot fork: {}", strerror(errno));
  if (pid == 0) {
    parent_end.reset();
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // no orphan without its devices, also if uvfio is killed
    if (getppid() != parent) _exit(kExitFailed);
    become_program(arguments, child_end, signals);
  }
  return Program(pid, std::move(parent_end), std::move(awaited_fd));
}

Program::~Program() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (pid_ >= 0) end_orphans();
}

Outcome<Fd> Program::go(const Fd& server_root, const Environment& environment) {
  for (const auto& [name, value] : environment) {
    const std::string text = name + "=" + value;
    static_cast<void>(send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL));
  }
  send_fd(socket_, server_root.get());
  const Fd socket = std::move(socket_);
  auto answer = receive(socket);
  if (!answer) return failure("the program's process ended before it was ready");
  if (!answer->fd) {
    if (answer->text == kReady)
      return failure("there is no descriptor left for the program's filter (ulimit -n)");
    return std::unexpected(std::move(answer->text));
  }
  static_cast<void>(send(socket.get(), kReady, strlen(kReady), MSG_NOSIGNAL));
  return std::move(answer->fd);
}

int Program::wait() {
  std::optional<int> status;
  while (!status) {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof info) != sizeof info) continue;
    if (info.ssi_signo == SIGCHLD) {
      status = reap(pid_);
    } else if (info.ssi_code != SI_KERNEL) {
      kill(pid_, static_cast<int>(info.ssi_signo));
    }
    // What the terminal sends (SI_KERNEL) reaches the program by itself: it is in the same process
    // group.
  }
  pid_ = 0;
  return WIFSIGNALED(*status) ? kExitSignal + WTERMSIG(*status) : WEXITSTATUS(*status);
}

}  // namespace uvfio::launcher
