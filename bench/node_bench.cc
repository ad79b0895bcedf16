// What a request costs that goes through our nodes, beside a FUSE file system that does nothing.
//
// Both are served by processes of their own, and the client, this program, asks them in turns. So
// the ratio says what uvfio adds to the kernel's part, however fast the machine is at the moment.

#include <fcntl.h>
#include <linux/vfio.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#define FUSE_USE_VERSION 312
#include <fmt/format.h>
#include <fuse3/fuse_lowlevel.h>

#include "devices/mtty/mtty.h"
#include "launcher/notify_filter.h"
#include "launcher/supervisor.h"
#include "nodes/mount.h"
#include "nodes/server.h"
#include "pci/layout.h"
#include "uvfio/fd.h"
#include "uvfio/host.h"

namespace uvfio {
namespace {

constexpr const char* kUuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
constexpr const char* kNothing = "nothing";  // the do-nothing file system's only file

template <typename T>
T check(T result, const char* what) {
  if (result < 0) throw std::runtime_error(fmt::format("{}: {}", what, strerror(errno)));
  return result;
}

// ---- Messages between client and servers: a text, empty if all is well, and a descriptor.

void send(const Fd& socket, std::string text, const Fd& fd = {}) {
  text.push_back('\0');  // an empty message would be an end of file
  iovec part{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int number = fd.get();
    std::memcpy(CMSG_DATA(header), &number, sizeof number);
  }
  check(sendmsg(socket.get(), &message, MSG_NOSIGNAL), "cannot talk to the other process");
}

Fd receive(const Fd& socket) {
  std::array<char, 1024> text{};
  iovec part{.iov_base = text.data(), .iov_len = text.size() - 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = check(recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC), "recvmsg");
  if (size == 0) throw std::runtime_error("the other process ended");
  if (text[0] != '\0') throw std::runtime_error(text.data());
  int number = -1;
  if (const cmsghdr* const header = CMSG_FIRSTHDR(&message); header != nullptr) {
    std::memcpy(&number, CMSG_DATA(header), sizeof number);
  }
  return Fd(number);
}

// Until the other process has closed its end.
void wait_for_end(const Fd& socket) {
  char byte = 0;
  ssize_t size = 0;
  do {
    size = read(socket.get(), &byte, 1);
  } while (size > 0 || (size < 0 && errno == EINTR));
}

// ---- The servers.

// A file of which every read is zeros, every write is accepted and every ioctl returns 0, served by
// libfuse's own loop: the least that any file system in user space has to do.
class DoNothing {
 public:
  static void serve(const Fd& socket) {
    auto mount = nodes::mount_detached();
    if (!mount) throw std::runtime_error(mount.error());
    fuse_lowlevel_ops ops{};
    ops.lookup = lookup;
    ops.getattr = getattr;
    ops.open = open;
    ops.read = read;
    ops.write = write;
    ops.ioctl = ioctl;
    std::array<char*, 1> argv{const_cast<char*>("node_bench")};
    fuse_args args{.argc = 1, .argv = argv.data(), .allocated = 0};
    fuse_session* const session = fuse_session_new(&args, &ops, sizeof ops, nullptr);
    const std::string device = fmt::format("/dev/fd/{}", mount->device.release());
    if (session == nullptr || fuse_session_mount(session, device.c_str()) != 0) {
      throw std::runtime_error("cannot make a FUSE session");
    }
    send(socket, "", mount->root);
    const std::jthread end([&socket] {
      wait_for_end(socket);
      _exit(0);
    });
    fuse_session_loop_mt(session, nullptr);
  }

 private:
  static constexpr fuse_ino_t kFile = 2;

  static struct stat stat_of(fuse_ino_t number) {
    struct stat info {};
    info.st_ino = number;
    info.st_nlink = 1;
    info.st_mode = number == kFile ? S_IFREG | 0600 : S_IFDIR | 0755;
    if (number == kFile) info.st_size = std::numeric_limits<off_t>::max();
    return info;
  }
  static void lookup(fuse_req_t request, fuse_ino_t, const char* name) {
    fuse_entry_param entry{};
    entry.ino = kFile;
    entry.attr = stat_of(kFile);
    if (std::strcmp(name, kNothing) != 0) {
      fuse_reply_err(request, ENOENT);
    } else {
      fuse_reply_entry(request, &entry);
    }
  }
  static void getattr(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
    const struct stat info = stat_of(number);
    fuse_reply_attr(request, &info, 0);
  }
  static void open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
    file->direct_io = 1;
    fuse_reply_open(request, file);
  }
  static void read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t, fuse_file_info*) {
    constexpr std::array<char, 4> kZeros{};
    fuse_reply_buf(request, kZeros.data(), std::min(size, kZeros.size()));
  }
  static void write(fuse_req_t request, fuse_ino_t, const char*, std::size_t size, off_t,
                    fuse_file_info*) {
    fuse_reply_write(request, size);
  }
  static void ioctl(fuse_req_t request, fuse_ino_t, unsigned, void*, fuse_file_info*, unsigned,
                    const void*, std::size_t, std::size_t) {
    fuse_reply_ioctl(request, 0, nullptr, 0);
  }
};

// A host with one serial card, and the two doors that `uvfio run` gives a program.
void serve_uvfio(const Fd& socket) {
  Host host;
  mtty::MttyDriver driver;
  const auto parent = mtty::register_mtty(host.mdev(), driver);
  if (!parent || !host.mdev().store_create(*parent, (*parent)->types()[0], kUuid)) {
    throw std::runtime_error("cannot make a serial card");
  }
  {
    const auto server = nodes::Server::create(host, {});
    if (!server) throw std::runtime_error(server.error());
    send(socket, "", (*server)->root());
    const launcher::Supervisor supervisor(**server, receive(socket));
    send(socket, "");
    wait_for_end(socket);
  }
  host.mdev().unregister_parent(*parent);
  host.mdev().unregister_driver(driver);
}

// A child process that serves until our end of its socket is closed, by this or by our own end: no
// mount and no thread outlives a measurement, and nobody is killed in the middle of a request.
class ServerProcess {
 public:
  explicit ServerProcess(void (*serve)(const Fd&), const cpu_set_t& cpus) {
    std::array<int, 2> ends{};
    check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
    socket_.reset(ends[0]);
    Fd other(ends[1]);
    pid_ = check(fork(), "fork");
    if (pid_ != 0) return;
    for (const int ending : {SIGINT, SIGTERM, SIGHUP}) std::signal(ending, SIG_IGN);
    socket_.reset();
    try {
      check(sched_setaffinity(0, sizeof cpus, &cpus), "sched_setaffinity");
      serve(other);
    } catch (const std::exception& error) {
      send(other, error.what());
    }
    _exit(0);
  }
  ~ServerProcess() {
    socket_.reset();
    waitpid(pid_, nullptr, 0);
  }
  ServerProcess(const ServerProcess&) = delete;

  [[nodiscard]] const Fd& socket() const { return socket_; }

 private:
  pid_t pid_ = -1;
  Fd socket_;
};

// ---- The client.

std::int64_t now() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

using Sample = std::function<std::int64_t()>;  // does it once and returns the nanoseconds

template <typename Deed>
Sample timed(Deed deed) {
  return [deed = std::move(deed)] {
    const std::int64_t start = now();
    deed();
    return now() - start;
  };
}

// Waits for interrupts in a thread of its own, asleep in read(2) whenever one is caused.
class Sleeper {
 public:
  Sleeper() : thread_([this] { run(); }) {}
  ~Sleeper() {
    stop_ = true;
    eventfd_write(event_.get(), 1);
    thread_.join();
  }
  Sleeper(const Sleeper&) = delete;

  [[nodiscard]] const Fd& event() const { return event_; }
  // From `cause` to the return of the sleeper's read.
  template <typename Cause>
  std::int64_t sample(const Cause& cause) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));  // it is asleep by then
    const std::int64_t start = now();
    cause();
    eventfd_t count = 0;
    check(eventfd_read(done_.get(), &count), "eventfd");
    return woken_at_.load() - start;
  }

 private:
  void run() {
    eventfd_t count = 0;
    while (eventfd_read(event_.get(), &count) == 0 && !stop_) {
      woken_at_ = now();
      eventfd_write(done_.get(), 1);
    }
  }

  Fd event_{check(eventfd(0, EFD_CLOEXEC), "eventfd")};
  Fd done_{check(eventfd(0, EFD_CLOEXEC), "eventfd")};
  std::atomic<std::int64_t> woken_at_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// A VFIO program with the serial card open, and the do-nothing file beside it.
class Client {
 public:
  Client(const ServerProcess& nothing, const ServerProcess& uvfio) {
    nothing_ = open(receive(nothing.socket()), kNothing);
    const Fd root = receive(uvfio.socket());
    container_ = open(root, "dev/vfio/vfio");
    group_ = open(root, "dev/vfio/0");
    auto listener = launcher::load_notify_filter();
    if (!listener) throw std::runtime_error(listener.error());
    send(uvfio.socket(), "", *listener);
    static_cast<void>(receive(uvfio.socket()));

    int container = container_.get();
    check(ioctl(group_.get(), VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
    check(ioctl(container_.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
    device_ = get_device();
    memory_ = mmap(nullptr, kMemory, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory_ == MAP_FAILED) check(-1, "mmap");
    trigger_by(sleeper_.event());
  }
  ~Client() { munmap(memory_, kMemory); }
  Client(const Client&) = delete;

  [[nodiscard]] Fd get_device() const {
    return Fd(
        check(ioctl(group_.get(), VFIO_GROUP_GET_DEVICE_FD, kUuid), "VFIO_GROUP_GET_DEVICE_FD"));
  }
  void map(std::uint64_t iova) const {
    vfio_iommu_type1_dma_map map{.argsz = sizeof map,
                                 .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                 .vaddr = reinterpret_cast<std::uintptr_t>(memory_),
                                 .iova = iova,
                                 .size = kMemory};
    check(ioctl(container_.get(), VFIO_IOMMU_MAP_DMA, &map), "VFIO_IOMMU_MAP_DMA");
  }
  void unmap(std::uint64_t iova) const {
    vfio_iommu_type1_dma_unmap unmap{};
    unmap.argsz = sizeof unmap;
    unmap.iova = iova;
    unmap.size = kMemory;
    check(ioctl(container_.get(), VFIO_IOMMU_UNMAP_DMA, &unmap), "VFIO_IOMMU_UNMAP_DMA");
  }
  std::int64_t map_and_unmap() const {
    const std::int64_t start = now();
    map(0);
    unmap(0);
    return now() - start;
  }
  std::int64_t map_and_unmap_beside_another() const {
    map(kMemory);
    const std::int64_t time = map_and_unmap();
    unmap(kMemory);
    return time;
  }
  std::int64_t interrupt() {
    // An empty transmitter announces itself as soon as that is enabled.
    static constexpr std::uint8_t kTransmitterEmpty = 0x02;
    static constexpr off_t kInterruptEnable = 1;
    return sleeper_.sample([this] {
      check(pwrite(device_.get(), &kTransmitterEmpty, 1, kInterruptEnable), "pwrite");
    });
  }

  Fd nothing_;
  Fd container_;
  Fd group_;
  Fd device_;

 private:
  static constexpr std::size_t kMemory = std::size_t{1} << 20;

  static Fd open(const Fd& root, const char* path) {
    return Fd(check(openat(root.get(), path, O_RDWR | O_CLOEXEC), path));
  }
  void trigger_by(const Fd& event) const {
    alignas(vfio_irq_set) std::array<std::byte, sizeof(vfio_irq_set) + sizeof(std::int32_t)> set{};
    const vfio_irq_set header{
        .argsz = set.size(),
        .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        .index = VFIO_PCI_MSI_IRQ_INDEX,
        .start = 0,
        .count = 1,
    };
    const std::int32_t fd = event.get();
    std::memcpy(set.data(), &header, sizeof header);
    std::memcpy(set.data() + sizeof header, &fd, sizeof fd);
    check(ioctl(device_.get(), VFIO_DEVICE_SET_IRQS, set.data()), "VFIO_DEVICE_SET_IRQS");
  }

  void* memory_ = nullptr;
  Sleeper sleeper_;
};

// What is measured; `nothing` is as many requests of the same kind to the do-nothing file, if there
// are such.
struct Row {
  const char* name;
  Sample uvfio;
  Sample nothing;
};

std::vector<Row> rows(Client& client) {
  const int container = client.container_.get();
  const int device = client.device_.get();
  const int nothing = client.nothing_.get();
  const auto do_nothing = [nothing] { check(ioctl(nothing, VFIO_GET_API_VERSION), "ioctl"); };
  const auto do_nothing_twice = [do_nothing] {
    do_nothing();
    do_nothing();
  };
  constexpr auto config = static_cast<off_t>(pci::region_offset(VFIO_PCI_CONFIG_REGION_INDEX));
  constexpr off_t kInterruptLine = 0x3c;  // a register that means nothing to the device
  const auto read_from = [](int fd) {
    return timed([fd] {
      std::uint32_t value = 0;
      check(pread(fd, &value, sizeof value, config), "pread");
    });
  };
  const auto write_to = [](int fd) {
    return timed([fd] {
      static constexpr std::uint32_t kValue = 0;
      check(pwrite(fd, &kValue, sizeof kValue, config + kInterruptLine), "pwrite");
    });
  };
  return {
      {"GET_API_VERSION",
       timed([container] { check(ioctl(container, VFIO_GET_API_VERSION), "GET_API_VERSION"); }),
       timed(do_nothing)},
      {"CHECK_EXTENSION", timed([container] {
         check(ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU), "CHECK_EXTENSION");
       }),
       timed(do_nothing)},
      {"pread, 4 bytes of config space", read_from(device), read_from(nothing)},
      {"pwrite, 4 bytes of config space", write_to(device), write_to(nothing)},
      {"MAP_DMA and UNMAP_DMA", [&client] { return client.map_and_unmap_beside_another(); },
       timed(do_nothing_twice)},
      {"MAP_DMA and UNMAP_DMA, the only one", [&client] { return client.map_and_unmap(); },
       timed(do_nothing_twice)},
      {"GET_DEVICE_FD",
       [&client] {
         const std::int64_t start = now();
         const Fd fd = client.get_device();  // to be closed after the time is taken
         return now() - start;
       },
       nullptr},
      {"pwrite to interrupt, reader asleep", [&client] { return client.interrupt(); }, nullptr},
  };
}

// ---- Rounds and figures.

double quantile(std::vector<double>& values, double share) {
  const auto index = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1));
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(index);
  std::ranges::nth_element(values, nth);
  return *nth;
}

struct Series {
  std::vector<double> all;

  // Takes a round's samples and returns their median.
  double add_round(const Sample& sample) {
    constexpr std::size_t kSamples = 50;  // short, so that both sides see the same weather
    std::vector<double> round(kSamples);
    std::ranges::generate(round, [&] { return static_cast<double>(sample()); });
    all.insert(all.end(), round.begin(), round.end());
    return quantile(round, 0.5);
  }
};

struct Figures {
  Series uvfio;
  Series nothing;
  std::vector<double> ratios;  // of each round's medians

  void add_round(const Row& row, bool uvfio_first) {
    if (!row.nothing) {
      uvfio.add_round(row.uvfio);
      return;
    }
    double ours = 0;
    double theirs = 0;
    if (uvfio_first) ours = uvfio.add_round(row.uvfio);
    theirs = nothing.add_round(row.nothing);
    if (!uvfio_first) ours = uvfio.add_round(row.uvfio);
    ratios.push_back(ours / theirs);
  }

  void print(const char* name) {
    const double median = quantile(uvfio.all, 0.5);
    fmt::print("{:<36}{:>9.0f}{:>9.0f}{:>10.0f}", name, median, quantile(uvfio.all, 0.9),
               1e9 / median);
    if (ratios.empty()) {
      fmt::print("{:>10}{:>9}{:>7}\n", "-", "-", "-");
    } else {
      fmt::print("{:>10.0f}{:>9.0f}{:>7.2f}\n", quantile(nothing.all, 0.5),
                 quantile(nothing.all, 0.9), quantile(ratios, 0.5));
    }
  }
};

// Where client and servers may run. On two CPUs each request and each reply wakes a CPU up. Left to
// itself, the scheduler puts each pair on one or two as it likes and leaves them there, so that the
// ratio says little.
enum class Placement { anywhere, one_cpu, two_cpus };

struct Options {
  unsigned rounds = 200;
  std::string filter;  // only rows whose name contains this
};

void measure(Placement placement, const Options& options) {
  cpu_set_t allowed;
  check(sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
  cpu_set_t client_cpus = allowed;
  cpu_set_t server_cpus = allowed;
  const char* title = "anywhere";
  if (placement != Placement::anywhere) {
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
    }
    const bool together = placement == Placement::one_cpu;
    title = together ? "client and servers on one CPU" : "client on one CPU, servers on another";
    if (cpus.size() < 2 && !together) {
      fmt::print("{}: there is only one\n", title);
      return;
    }
    CPU_ZERO(&client_cpus);
    CPU_ZERO(&server_cpus);
    CPU_SET(cpus[0], &client_cpus);
    CPU_SET(cpus[together ? 0 : 1], &server_cpus);
  }
  // In this order: the second child inherits our end of the first one's socket.
  const ServerProcess uvfio(serve_uvfio, server_cpus);
  const ServerProcess nothing(DoNothing::serve, server_cpus);
  check(sched_setaffinity(0, sizeof client_cpus, &client_cpus), "sched_setaffinity");
  Client client(nothing, uvfio);

  std::vector<Row> all = rows(client);
  std::erase_if(all, [&](const Row& row) {
    return std::string_view(row.name).find(options.filter) == std::string_view::npos;
  });
  std::vector<Figures> figures(all.size());
  for (const Row& row : all) Figures().add_round(row, true);  // warms up
  for (unsigned round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) figures[i].add_round(all[i], round % 2 == 0);
  }
  fmt::print("{:<36}{:>9}{:>9}{:>10}{:>10}{:>9}{:>7}\n", title, "uvfio ns", "p90", "1/s", "nothing",
             "p90", "ratio");
  for (std::size_t i = 0; i < all.size(); ++i) figures[i].print(all[i].name);
}

// In a process of its own: a process can have only one filter that notifies.
int measure_apart(Placement placement, const Options& options) {
  std::fflush(nullptr);
  const pid_t pid = check(fork(), "fork");
  if (pid == 0) {
    int status = 0;
    try {
      measure(placement, options);
    } catch (const std::exception& error) {
      fmt::print(stderr, "node_bench: {}\n", error.what());
      status = 1;
    }
    std::fflush(nullptr);
    _exit(status);
  }
  int status = 0;
  check(waitpid(pid, &status, 0), "waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace uvfio

int main(int argc, char** argv) {
  using uvfio::Placement;
  CLI::App app(
      "Measures requests through uvfio's nodes beside the same requests to a FUSE file system that "
      "does nothing.\nNeeds /dev/fuse, CAP_SYS_ADMIN and Linux 5.14.");
  const std::map<std::string, Placement> names{
      {"one", Placement::one_cpu}, {"two", Placement::two_cpus}, {"any", Placement::anywhere}};
  uvfio::Options options;
  std::vector<Placement> placements{Placement::one_cpu, Placement::two_cpus};
  app.add_option("--rounds", options.rounds, "Rounds of 50 requests of each kind to either side")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1'000'000U));
  app.add_option("--filter", options.filter, "Only what has this text in its name");
  app.add_option("--cpus", placements,
                 "Where client and servers run: one, two, any (default: one, then two)")
      ->option_text("WHERE ...")
      ->transform(CLI::CheckedTransformer(names));
  CLI11_PARSE(app, argc, argv);
  try {
    for (const Placement placement : placements) {
      if (const int status = uvfio::measure_apart(placement, options); status != 0) return status;
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "node_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
