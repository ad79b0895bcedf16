// Kills VFIO programs in the middle of things, and looks at what is left of them in the server.
//
//   uvfio run --mdev mtty-1 -- kill_rounds E2E_CLIENT
//
// Each round lets a client walk at random for a random number of steps (walk.c), kills it, and sees
// to it that a fresh client can use the device. In the end the server, the parent process, has to
// have as many descriptors, mappings and threads as after the first rounds.
//
// Environment: UVFIO_KILL_ROUNDS (100), UVFIO_SEED (1), UVFIO_KILL_RSS_KIB, by how much the
// server's memory may grow (8192, and 65536 with a sanitizer).

#include <dirent.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "client.h"

namespace {

namespace fs = std::filesystem;

constexpr int kSkipped = 77;
constexpr unsigned kWarmUpRounds = 50;
constexpr unsigned kMaxSteps = 120;
constexpr const char* kSpare = "5f0e1c64-7c2a-4d1e-9b3f-0000000000ff";

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(EXIT_FAILURE);
}

unsigned from_environment(const char* name, unsigned otherwise) {
  const char* const text = std::getenv(name);
  if (text == nullptr) {
    return otherwise;
  }
  unsigned value = 0;
  const char* const end = text + std::strlen(text);
  if (const auto parsed = std::from_chars(text, end, value);
      parsed.ec != std::errc() || parsed.ptr != end) {
    std::fprintf(stderr, "%s is not a number: %s\n", name, text);
    std::exit(EXIT_FAILURE);
  }
  return value;
}

// ---- What the server holds.

struct Usage {
  std::map<std::string, unsigned> descriptors;  // by what they lead to
  unsigned file_mappings = 0;                   // the clients' shared memory among them
  unsigned mappings = 0;
  bool sanitized = false;  // a sanitizer maps memory as it likes
  unsigned threads = 0;
  unsigned long resident_kib = 0;

  [[nodiscard]] unsigned descriptor_count() const {
    unsigned count = 0;
    for (const auto& [kind, number] : descriptors) {
      count += number;
    }
    return count;
  }
};

// Numbers of inodes and processes made equal: "pipe:[#]".
std::string kind_of(const std::string& target) {
  std::string kind;
  for (const char c : target) {
    if (c < '0' || c > '9') {
      kind += c;
    } else if (kind.empty() || kind.back() != '#') {
      kind += '#';
    }
  }
  return kind;
}

Usage measure(pid_t server) {
  const fs::path process = "/proc/" + std::to_string(server);
  Usage usage;
  for (const auto& entry : fs::directory_iterator(process / "fd")) {
    std::error_code gone;
    const auto target = fs::read_symlink(entry, gone);
    if (!gone) {
      ++usage.descriptors[kind_of(target)];
    }
  }
  std::ifstream maps(process / "maps");
  for (std::string line; std::getline(maps, line);) {
    // RANGE MODE OFFSET DEVICE INODE PATH; the inode is 0 where there is no file.
    std::istringstream fields(line);
    std::string range, mode, offset, device;
    unsigned long inode = 0;
    fields >> range >> mode >> offset >> device >> inode;
    ++usage.mappings;
    usage.file_mappings += inode != 0 ? 1 : 0;
    usage.sanitized =
        usage.sanitized || line.find("/libasan") != line.npos || line.find("/libtsan") != line.npos;
  }
  for (const auto& entry : fs::directory_iterator(process / "task")) {
    static_cast<void>(entry);
    ++usage.threads;
  }
  unsigned long pages = 0;
  std::ifstream(process / "statm") >> pages >> pages;
  usage.resident_kib = pages * static_cast<unsigned long>(sysconf(_SC_PAGESIZE)) / 1024;
  return usage;
}

// What a client has closed may still be on its way to the server, and nobody says when it has
// arrived: measures until a few measurements in a row are equal.
Usage measure_at_rest(pid_t server) {
  constexpr int kInARow = 5;
  constexpr auto kPause = std::chrono::milliseconds(20);
  Usage usage = measure(server);
  for (int equal = 0; equal < kInARow; ++equal) {
    std::this_thread::sleep_for(kPause);
    Usage next = measure(server);
    if (next.descriptors != usage.descriptors || next.mappings != usage.mappings ||
        next.threads != usage.threads) {
      equal = 0;
    }
    usage = std::move(next);
  }
  return usage;
}

void print(const char* when, const Usage& usage) {
  std::printf("%s: %u descriptors, %u mappings (%u of files), %u threads, %lu KiB resident\n", when,
              usage.descriptor_count(), usage.mappings, usage.file_mappings, usage.threads,
              usage.resident_kib);
}

bool compare(const Usage& before, const Usage& after, unsigned tolerated_kib) {
  bool same = true;
  auto kinds = before.descriptors;
  kinds.insert(after.descriptors.begin(), after.descriptors.end());
  for (const auto& [kind, unused] : kinds) {
    const auto count = [&kind](const Usage& usage) {
      const auto found = usage.descriptors.find(kind);
      return found == usage.descriptors.end() ? 0 : found->second;
    };
    if (count(before) != count(after)) {
      std::printf("descriptors of %s: %u, then %u\n", kind.c_str(), count(before), count(after));
      same = false;
    }
  }
  if (before.file_mappings != after.file_mappings) {
    std::printf("mappings of files: %u, then %u\n", before.file_mappings, after.file_mappings);
    same = false;
  }
  // glibc keeps the stacks of some threads that have ended, two mappings each.
  constexpr unsigned kKeptStacks = 16;
  if (after.mappings > before.mappings + 2 * kKeptStacks && !after.sanitized) {
    std::printf("mappings: %u, then %u\n", before.mappings, after.mappings);
    same = false;
  }
  if (before.threads != after.threads) {
    std::printf("threads: %u, then %u\n", before.threads, after.threads);
    same = false;
  }
  if (after.resident_kib > before.resident_kib + tolerated_kib) {
    std::printf("resident: %lu KiB, then %lu KiB\n", before.resident_kib, after.resident_kib);
    same = false;
  }
  return same;
}

// ---- Clients.

// A walking client, leader of a process group.
class Walker {
 public:
  Walker(const char* program, const char* uuid, unsigned seed, unsigned kill_at) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
      die("pipe");
    }
    const auto seed_text = std::to_string(seed);
    const auto kill_text = std::to_string(kill_at);
    pid_ = fork();
    if (pid_ < 0) {
      die("fork");
    }
    if (pid_ == 0) {
      setpgid(0, 0);
      dup2(ends[1], STDOUT_FILENO);
      execl(program, program, "walk", uuid, kSpare, seed_text.c_str(), kill_text.c_str(), nullptr);
      die(program);
    }
    setpgid(pid_, pid_);  // Whoever comes first. EACCES: it has.
    close(ends[1]);
    steps_ = ends[0];
  }
  ~Walker() { close(steps_); }
  Walker(const Walker&) = delete;

  // False when it has ended.
  bool wait_for_steps(unsigned count) {
    std::array<char, kMaxSteps> bytes{};
    while (count > 0) {
      const ssize_t size = read(steps_, bytes.data(), std::min<std::size_t>(count, bytes.size()));
      if (size <= 0) {
        return false;
      }
      count -= static_cast<unsigned>(size);
    }
    return true;
  }
  void wait_for_end() {
    while (wait_for_steps(kMaxSteps)) {
    }
  }
  void kill_leader() const { kill(pid_, SIGKILL); }
  // All of it; then nothing of it is there any more.
  bool end() {
    kill(-pid_, SIGKILL);
    bool killed = false;
    int status = 0;
    for (pid_t child = 0; (child = wait(&status)) > 0 || errno == EINTR;) {
      if (child == pid_) {
        killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        if (!killed) {
          std::printf("the client ended by itself, status %#x\n", static_cast<unsigned>(status));
        }
      }
    }
    return killed;
  }

 private:
  pid_t pid_ = -1;
  int steps_ = -1;
};

bool fresh_client(const char* program, const char* uuid) {
  const pid_t child = fork();
  if (child < 0) {
    die("fork");
  }
  if (child == 0) {
    execl(program, program, "use", uuid, nullptr);
    die(program);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool round(const char* program, const char* uuid, unsigned seed) {
  std::minstd_rand random(seed);
  const unsigned steps = 1 + random() % kMaxSteps;
  enum Killer { kFromOutside, kLeaderFirst, kFromInside, kKillers };
  const auto killer = static_cast<Killer>(random() % kKillers);

  Walker walker(program, uuid, seed, killer == kFromInside ? steps : 0);
  if (killer == kFromInside) {
    walker.wait_for_end();
  } else if (!walker.wait_for_steps(steps)) {
    std::printf("the client ended early\n");
  } else if (killer == kLeaderFirst) {
    walker.kill_leader();
  }
  bool passed = walker.end();
  // The server may just be ending a removal that the dead client had begun.
  const auto is_going = [] { return errno == ENOENT || errno == ENODEV || errno == EAGAIN; };
  if (mdev_exists(kSpare) && remove_mdev(kSpare) != 0 && !is_going()) {
    std::perror("remove");
    passed = false;
  }
  return fresh_client(program, uuid) && passed;
}

// The server's least usage over some uses of it: a thread that a burst has left over ends with the
// next requests, and its descriptors go with the ones after. What leaks never goes.
Usage least_usage(pid_t server, const char* program, const char* uuid) {
  constexpr int kTries = 12;
  Usage least = measure_at_rest(server);
  for (int i = 0; i < kTries; ++i) {
    if (!fresh_client(program, uuid)) {
      std::printf("a client that looks at the server at rest failed\n");
    }
    const Usage usage = measure_at_rest(server);
    const auto size = [](const Usage& u) { return std::tuple(u.descriptor_count(), u.threads); };
    if (size(usage) < size(least)) {
      least = usage;
    }
  }
  return least;
}

// Makes the server start as many threads as it will ever keep.
void saturate(const char* uuid) {
  client client;
  if (!open_client(&client, uuid)) {
    std::exit(EXIT_FAILURE);
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&client, uuid] {
      for (int n = 0; n < 50; ++n) {
        get_device_info(client.device);
        close(ioctl(client.group, VFIO_GROUP_GET_DEVICE_FD, uuid));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  close_client(&client);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const uuid = std::getenv("UVFIO_MDEV");
  if (argc != 2 || uuid == nullptr) {
    std::fprintf(stderr, "usage: uvfio run --mdev mtty-1 -- kill_rounds E2E_CLIENT\n");
    return 2;
  }
  const unsigned rounds = from_environment("UVFIO_KILL_ROUNDS", 100);
  const unsigned first_seed = from_environment("UVFIO_SEED", 1);
  const pid_t server = getppid();
  if (access(("/proc/" + std::to_string(server) + "/fd").c_str(), R_OK) != 0) {
    std::printf("skipped: the server's /proc entries may not be read\n");
    return kSkipped;
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1);  // the clients' children are ours to wait for
  std::setvbuf(stdout, nullptr, _IOLBF, 0);

  saturate(uuid);
  Usage before;
  unsigned failed = 0;
  for (unsigned i = 0; i < kWarmUpRounds + rounds; ++i) {
    if (i == kWarmUpRounds) {
      before = least_usage(server, argv[1], uuid);
      print("after the warm-up", before);
    }
    if (!round(argv[1], uuid, first_seed + i)) {
      std::printf("round with seed %u failed\n", first_seed + i);
      ++failed;
    }
  }
  const Usage after = least_usage(server, argv[1], uuid);
  print("after the last round", after);
  const bool same = compare(before, after,
                            from_environment("UVFIO_KILL_RSS_KIB", after.sanitized ? 65536 : 8192));
  std::printf("%u rounds, %u failed\n", kWarmUpRounds + rounds, failed);
  return failed == 0 && same ? EXIT_SUCCESS : EXIT_FAILURE;
}
