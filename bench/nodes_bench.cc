// What a request costs that does nothing, from one process to another through the nodes door.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "nodes/fuse_server.h"

namespace {

using namespace uvfio;

class Nothing final : public nodes::OpenNode {
 public:
  Result<std::size_t> read(std::uint64_t, std::span<std::byte> data) override {
    return data.size();
  }
  Result<std::size_t> write(std::uint64_t, std::span<const std::byte> data) override {
    return data.size();
  }
  Result<int> ioctl(pid_t, std::uint32_t, std::uint64_t) override { return 0; }
};

// The server, in a process of its own. Tells its mount's descriptor through `pipe`.
[[noreturn]] void serve(int pipe) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto root = nodes::Directory::make_root();
  const auto opener = [](pid_t, int) -> Result<std::shared_ptr<nodes::OpenNode>> {
    return std::make_shared<Nothing>();
  };
  static_cast<void>(root->add_device("nothing", {.mode = 0666}, opener));
  const auto server = nodes::FuseServer::create(root, {});
  const int fd = server ? (*server)->root().get() : -1;
  if (!server) fprintf(stderr, "%s\n", server.error().c_str());
  if (write(pipe, &fd, sizeof(fd)) != sizeof(fd)) _exit(1);
  while (true) pause();
}

std::string node;

void ioctl_nothing(benchmark::State& state) {
  const Fd fd(open(node.c_str(), O_RDWR | O_CLOEXEC));
  for (auto _ : state) {
    if (ioctl(fd.get(), VFIO_GET_API_VERSION) != 0) state.SkipWithError("ioctl");
  }
}
BENCHMARK(ioctl_nothing)->UseRealTime();

void pread_nothing(benchmark::State& state) {
  const Fd fd(open(node.c_str(), O_RDWR | O_CLOEXEC));
  std::vector<char> data(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    if (pread(fd.get(), data.data(), data.size(), off_t{1} << 40) !=
        static_cast<ssize_t>(data.size())) {
      state.SkipWithError("pread");
    }
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(pread_nothing)->Arg(4)->Arg(4096)->Arg(1 << 20)->UseRealTime();

void pwrite_nothing(benchmark::State& state) {
  const Fd fd(open(node.c_str(), O_RDWR | O_CLOEXEC));
  const std::vector<char> data(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    if (pwrite(fd.get(), data.data(), data.size(), off_t{1} << 40) !=
        static_cast<ssize_t>(data.size())) {
      state.SkipWithError("pwrite");
    }
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(pwrite_nothing)->Arg(4)->Arg(1 << 20)->UseRealTime();

void open_close_nothing(benchmark::State& state) {
  for (auto _ : state) {
    const Fd fd(open(node.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) state.SkipWithError("open");
  }
}
BENCHMARK(open_close_nothing)->UseRealTime();

}  // namespace

// With UVFIO_BENCH_NODE set, that file is measured instead: any other server's, for comparison.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (const char* other = getenv("UVFIO_BENCH_NODE")) {
    node = other;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) serve(pipes[1]);
  int root = -1;
  if (child < 0 || read(pipes[0], &root, sizeof(root)) != sizeof(root) || root < 0) return 1;
  node = "/proc/" + std::to_string(child) + "/fd/" + std::to_string(root) + "/nothing";
  benchmark::RunSpecifiedBenchmarks();
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}
