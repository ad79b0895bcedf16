// A client process for tests: forked, and in step with the test through two pipes.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>

namespace uvfio::memory {

class TestClient {
 public:
  // The client's end.
  class Inside {
   public:
    Inside(int in, int out) : in_(in), out_(out) {}
    void send(std::uint64_t value) const {
      if (write(out_, &value, sizeof value) != sizeof value) _exit(1);
    }
    void send(const void* pointer) const { send(reinterpret_cast<std::uintptr_t>(pointer)); }
    // Until the test says go(); the process ends when the test has lost interest.
    void wait() const {
      char byte = 0;
      if (read(in_, &byte, 1) != 1) _exit(0);
    }
    // Goes on as a program that answers echoes().
    void become_echo() const {
      if (dup2(in_, STDIN_FILENO) < 0 || dup2(out_, STDOUT_FILENO) < 0) _exit(1);
      execl("/bin/cat", "cat", nullptr);
      _exit(1);
    }

   private:
    int in_;
    int out_;
  };

  explicit TestClient(const std::function<void(const Inside&)>& body) {
    int to_client[2];
    int from_client[2];
    if (pipe2(to_client, O_CLOEXEC) != 0 || pipe2(from_client, O_CLOEXEC) != 0) abort();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(to_client[1]);
      close(from_client[0]);
      const Inside inside(to_client[0], from_client[1]);
      body(inside);
      for (;;) inside.wait();
    }
    close(to_client[0]);
    close(from_client[1]);
    out_ = to_client[1];
    in_ = from_client[0];
  }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;
  ~TestClient() {
    kill();
    close(in_);
    close(out_);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }

  // The next value that the client sends; 0 once it can send no more.
  [[nodiscard]] std::uint64_t receive() const {
    std::uint64_t value = 0;
    return read(in_, &value, sizeof value) == sizeof value ? value : 0;
  }
  void go() const {
    const char byte = 0;
    if (write(out_, &byte, 1) != 1) abort();
  }
  // Waits until a client that did become_echo() runs as such: exec is through then.
  [[nodiscard]] bool echoes() const {
    go();
    char byte = 0;
    return read(in_, &byte, 1) == 1;
  }
  // Ends the client and waits until it is reaped.
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  int in_ = -1;
  int out_ = -1;
};

}  // namespace uvfio::memory
