// What a real Linux guest gets out of the NVMe disk: User-Mode Linux under `uvfio run`, with the
// same file as an NVMe disk and as its own paravirtual disk, `ubd`. Both are measured in turns in
// the same guest; nvme_guest_load is its init.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "uvfio/fd.h"

namespace {

using uvfio::Fd;

template <typename T>
T check(T result, std::string_view what) {
  if (result < 0) throw std::runtime_error(fmt::format("{}: {}", what, strerror(errno)));
  return result;
}

struct Options {
  std::string uvfio;
  std::string load;
  std::string kernel;
  std::string directory = ".";
  unsigned rounds = 9;
  unsigned milliseconds = 500;
  unsigned megabytes = 256;
  unsigned piece = 4096;
  std::string mode = "seccomp=auto";
  std::string filter;
};

// ---- The file, all of it in the page cache.

class Image {
 public:
  explicit Image(const Options& options) {
    std::string path = options.directory + "/nvme_guest.XXXXXX";
    file_ = Fd(check(mkstemp(path.data()), path));
    check(unlink(path.c_str()), path);  // nothing stays, whatever becomes of us
    path_ = fmt::format("/proc/{}/fd/{}", getpid(), file_.get());
    std::vector<char> data(options.piece);
    for (std::size_t i = 0; i < (std::size_t{options.megabytes} << 20) / options.piece; ++i) {
      std::ranges::fill(data, static_cast<char>(i + 1));
      check(write(file_.get(), data.data(), data.size()), path_);
    }
    check(fdatasync(file_.get()), path_);
  }
  Image(const Image&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Fd file_;
  std::string path_;
};

// ---- CPU time of processes, in seconds.

struct Process {
  pid_t parent = 0;
  double cpu = 0;
};

std::map<pid_t, Process> processes() {
  std::map<pid_t, Process> all;
  const double tick = static_cast<double>(sysconf(_SC_CLK_TCK));
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    // The name in parentheses may hold anything.
    const std::size_t end = text.rfind(')');
    if (end == std::string::npos) continue;
    int parent = 0;
    unsigned long user = 0;
    unsigned long system = 0;
    if (std::sscanf(text.c_str() + end + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                    &parent, &user, &system) != 3)
      continue;
    all[std::stoi(name)] = {parent, static_cast<double>(user + system) / tick};
  }
  return all;
}

struct CpuTimes {
  double server = 0;
  double guest = 0;
};

CpuTimes cpu_times(pid_t server) {
  const auto all = processes();
  CpuTimes times;
  for (const auto& [pid, process] : all) {
    if (pid == server) {
      times.server = process.cpu;
      continue;
    }
    for (pid_t at = process.parent; at > 1;) {
      if (at == server) {
        times.guest += process.cpu;
        break;
      }
      const auto parent = all.find(at);
      at = parent == all.end() ? 0 : parent->second.parent;
    }
  }
  return times;
}

// ---- The guest.

struct Sample {
  double rate = 0;        // operations a second
  double interrupts = 0;  // each of an operation
  double server_us = 0;   // CPU time
  double guest_us = 0;
};

constexpr unsigned kPatience = 60 + 60;  // seconds: the longest load, and some more

class Guest {
 public:
  Guest(const Options& options, const std::string& image) {
    constexpr const char* kBdf = "0000:01:00.0";
    const std::array<std::string, 18> arguments{
        options.uvfio,
        "run",
        "--pci",
        fmt::format("nvme,file={}@{}", image, kBdf),
        "--",
        options.kernel,
        "mem=256M",
        options.mode,
        fmt::format("vfio_uml.device={}", kBdf),
        fmt::format("ubd0d={}", image),
        "nvme.poll_queues=1",  // beside the queue with interrupts
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        fmt::format("init={}", options.load),
        "quiet",
        "con=null",
        "con0=fd:0,fd:1",
    };
    int in[2];
    int out[2];
    check(pipe2(in, O_CLOEXEC), "pipe");
    check(pipe2(out, O_CLOEXEC), "pipe");
    pid_ = check(fork(), "fork");
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      const int null = open("/dev/null", O_WRONLY);
      if (getenv("NVME_GUEST_VERBOSE") == nullptr) dup2(null, 2);
      std::vector<char*> words;
      for (const std::string& word : arguments) words.push_back(const_cast<char*>(word.c_str()));
      words.push_back(nullptr);
      execv(words[0], words.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    setvbuf(to_, nullptr, _IOLBF, 0);
    expect("ready");
  }
  ~Guest() {
    fputs("off\n", to_);
    fclose(to_);
    fclose(from_);
    waitpid(pid_, nullptr, 0);
  }
  Guest(const Guest&) = delete;

  Sample measure(const std::string& load) {
    const CpuTimes before = cpu_times(pid_);
    fmt::print(to_, "{}\n", load);
    const std::string line = expect("done ");
    const CpuTimes after = cpu_times(pid_);
    unsigned long operations = 0;
    unsigned long nanoseconds = 0;
    unsigned long interrupts = 0;
    if (std::sscanf(line.c_str(), "done %lu %lu %lu", &operations, &nanoseconds, &interrupts) !=
            3 ||
        operations == 0)
      throw std::runtime_error("the guest said: " + line);
    const auto count = static_cast<double>(operations);
    return {.rate = count / static_cast<double>(nanoseconds) * 1e9,
            .interrupts = static_cast<double>(interrupts) / count,
            .server_us = (after.server - before.server) / count * 1e6,
            .guest_us = (after.guest - before.guest) / count * 1e6};
  }

 private:
  // A line that begins with `what`; others are the kernel's.
  std::string expect(std::string_view what) {
    std::array<char, 512> line{};
    alarm(kPatience);
    while (fgets(line.data(), line.size(), from_) != nullptr) {
      const std::string_view text(line.data());
      if (text.starts_with(what)) {
        alarm(0);
        return line.data();
      }
      if (text.starts_with("error")) throw std::runtime_error("the guest: " + std::string(text));
    }
    throw std::runtime_error(errno == EINTR
                                 ? "the guest is silent; User-Mode Linux may have missed "
                                   "a signal, try again"
                                 : "the guest ended without a word");
  }

  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

// ---- What is measured.

struct Workload {
  std::string_view name;
  std::string_view direction;
  std::string_view order;
  unsigned bytes;
  unsigned depth;
};

constexpr std::array kWorkloads{
    Workload{"4 KiB random read, depth 1", "read", "random", 4096, 1},
    Workload{"4 KiB random read, depth 32", "read", "random", 4096, 32},
    Workload{"4 KiB random write, depth 1", "write", "random", 4096, 1},
    Workload{"4 KiB random write, depth 32", "write", "random", 4096, 32},
    Workload{"128 KiB sequential read, depth 1", "read", "sequential", 131072, 1},
    Workload{"128 KiB sequential read, depth 32", "read", "sequential", 131072, 32},
    Workload{"128 KiB sequential write, depth 1", "write", "sequential", 131072, 1},
    Workload{"128 KiB sequential write, depth 32", "write", "sequential", 131072, 32},
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double median_of(const std::vector<Sample>& samples, double Sample::*member) {
  std::vector<double> values;
  for (const Sample& sample : samples) values.push_back(sample.*member);
  return median(std::move(values));
}

// How the disk is used.
struct Way {
  std::string_view device;
  std::string_view wait;
};

constexpr std::array kWays{Way{"nvme0n1", "sleep"}, Way{"nvme0n1", "poll"}, Way{"ubda", "sleep"}};
enum { kInterrupts, kPolled, kUbd };

constexpr std::string_view kTableHead =
    "| workload | nvme, 1/s | polled | ubd | ratio | polled | interrupts per I/O: nvme | ubd "
    "| CPU us per I/O: nvme, guest + server | polled | ubd |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n";

void compare(Guest& guest, const Options& options, const Workload& workload) {
  std::array<std::vector<Sample>, kWays.size()> samples;
  std::array<std::vector<double>, kWays.size()> ratios;  // to ubd, in the same round
  for (unsigned round = 0; round < options.rounds; ++round) {
    for (std::size_t turn = 0; turn < kWays.size(); ++turn) {
      const std::size_t way = (round + turn) % kWays.size();  // who comes first changes
      samples[way].push_back(guest.measure(
          fmt::format("{} {} {} {} {} {} {}", kWays[way].device, workload.direction, workload.order,
                      kWays[way].wait, workload.bytes, workload.depth, options.milliseconds)));
    }
    for (std::size_t way = 0; way < kWays.size(); ++way)
      ratios[way].push_back(samples[way].back().rate / samples[kUbd].back().rate);
  }
  const auto middle = [&](std::size_t way, double Sample::*member) {
    return median_of(samples[way], member);
  };
  const auto cpu = [&](std::size_t way) {
    return fmt::format("{:.1f} + {:.1f}", middle(way, &Sample::guest_us),
                       middle(way, &Sample::server_us));
  };
  fmt::print(
      "| {} | {:.0f} | {:.0f} | {:.0f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {} | {} | {:.1f} |\n",
      workload.name, middle(kInterrupts, &Sample::rate), middle(kPolled, &Sample::rate),
      middle(kUbd, &Sample::rate), median(ratios[kInterrupts]), median(ratios[kPolled]),
      middle(kInterrupts, &Sample::interrupts), middle(kUbd, &Sample::interrupts), cpu(kInterrupts),
      cpu(kPolled), middle(kUbd, &Sample::guest_us));
  std::fflush(stdout);
}

std::string default_kernel() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  return (cache != nullptr ? std::string(cache)
                           : std::string(home != nullptr ? home : "") + "/.cache") +
         "/linux-uml/linux";
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  const auto here = std::filesystem::canonical("/proc/self/exe").parent_path();
  options.uvfio = here / "uvfio";
  options.load = here / "nvme_guest_load";
  options.kernel = default_kernel();
  CLI::App app("4 KiB and 128 KiB block I/O of a User-Mode Linux: our NVMe disk beside ubd");
  app.add_option("--kernel", options.kernel,
                 "User-Mode Linux with ubd (tests/clients/prepare uml)");
  app.add_option("--directory", options.directory, "where the image lies (default: here)");
  app.add_option("--rounds", options.rounds, "of either disk, in turns")
      ->check(CLI::Range(1, 1000));
  app.add_option("--milliseconds", options.milliseconds, "of each measurement")
      ->check(CLI::Range(10, 60000));
  app.add_option("--megabytes", options.megabytes, "of the image")->check(CLI::Range(16, 65536));
  app.add_option(
         "--piece", options.piece,
         "bytes that the image is written in at once, which decides on the file system's folios")
      ->check(CLI::Range(512, 1 << 20));
  app.add_option("--mode", options.mode, "how the guest's processes run: seccomp=off, on or auto");
  app.add_option("--filter", options.filter, "only rows with this text");
  CLI11_PARSE(app, argc, argv);
  signal(SIGPIPE, SIG_IGN);
  struct sigaction alarmed = {};  // without SA_RESTART: it ends a read
  alarmed.sa_handler = [](int) {};
  sigaction(SIGALRM, &alarmed, nullptr);
  try {
    const Image image(options);
    Guest guest(options, image.path());
    fmt::print(kTableHead);
    for (const Workload& workload : kWorkloads) {
      if (workload.name.find(options.filter) != std::string_view::npos)
        compare(guest, options, workload);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "nvme_guest: {}\n", error.what());
    return 1;
  }
  return 0;
}
