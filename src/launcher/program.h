// The program that `uvfio run` runs, as a process: made before everything else, let go when its
// devices are there, waited for with signals passed on.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "launcher/failure.h"
#include "uvfio/fd.h"

namespace uvfio::launcher {

// Exit statuses of `uvfio run` other than the program's own: as a shell's, and as env(1) for 125.
inline constexpr int kExitFailed = 125;  // uvfio itself
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;
inline constexpr int kExitSignal = 128;  // plus the number of the signal that ended the program

// One at a time in a process. From fork() on, the signals that are passed on are blocked in the
// calling thread and in those that it makes.
class Program {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;

  // Makes the process, which waits for go(). The program's name comes first in `arguments`; it is
  // looked for in PATH. Only while this process has a single thread: then the child may do what it
  // likes before it executes the program, and no other thread gets the signals.
  [[nodiscard]] static Outcome<Program> fork(const std::vector<std::string>& arguments);
  Program(Program&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        socket_(std::move(other.socket_)),
        signals_(std::move(other.signals_)) {}
  Program& operator=(Program&&) = delete;
  // Ends what is left: the process, unless wait() has seen its end, and whatever it has left
  // running. To be destroyed after the server: a process can be killed only when its request has
  // been answered.
  ~Program();

  // Lays the server's directories over the machine's (mount_namespace.h), installs the seccomp
  // filter in the process and lets it execute the program, with `environment` added to ours. The
  // result is the filter's listener.
  [[nodiscard]] Outcome<Fd> go(const Fd& server_root, const Environment& environment);

  // Waits for the end of the program. Returns the exit status of `uvfio run`.
  [[nodiscard]] int wait();

  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  Program(pid_t pid, Fd socket, Fd signals)
      : pid_(pid), socket_(std::move(socket)), signals_(std::move(signals)) {}

  pid_t pid_;  // 0: waited for; -1: moved away
  Fd socket_;
  Fd signals_;  // those that wait() awaits
};

}  // namespace uvfio::launcher
