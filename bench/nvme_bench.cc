// The NVMe disk in process: no door, no guest; what the controller itself costs. 4 KiB reads and
// writes at random places of a file in the page cache, beside pread and pwrite on the same file.

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <string_view>

#include "devices/nvme/driver_for_test.h"

namespace {

using namespace uvfio;
using namespace uvfio::nvme;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kFile = 64 << 20;
constexpr unsigned kSeconds = 1;

class Random {
 public:
  std::uint64_t block() {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return (state_ >> 33) % (kFile / 4096);
  }

 private:
  std::uint64_t state_ = 1;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Calls round(), which does `each` transfers, for a while; `extra` goes to the end of the line.
template <typename Round, typename Extra>
void measure(std::string_view name, unsigned each, Round&& round, Extra&& extra) {
  const double cpu = cpu_seconds();
  const auto begin = Clock::now();
  std::uint64_t done = 0;
  while (Clock::now() - begin < std::chrono::seconds(kSeconds)) {
    round();
    done += each;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const auto count = static_cast<double>(done);
  fmt::print("{:32} {:9.0f} /s {:8.2f} us each {:8.2f} us CPU{}\n", name, count / seconds,
             seconds / count * 1e6, (cpu_seconds() - cpu) / count * 1e6, extra(count));
}

void bare_file(const TestFile& file) {
  const Fd fd(open(file.path().c_str(), O_RDWR | O_CLOEXEC));
  std::array<std::byte, 4096> data{};
  Random random;
  const auto nothing = [](double) { return std::string(); };
  measure(
      "pread", 1,
      [&] {
        if (pread(fd.get(), data.data(), data.size(), static_cast<off_t>(random.block() * 4096)) <
            0)
          std::abort();
      },
      nothing);
  measure(
      "pwrite", 1,
      [&] {
        if (pwrite(fd.get(), data.data(), data.size(), static_cast<off_t>(random.block() * 4096)) <
            0)
          std::abort();
      },
      nothing);
}

void disk(const TestFile& file, bool shadow) {
  testing::PciPort port(16 << 20);
  auto made = Disk::create({.files = {file.path()}, .lba_size = 4096});
  if (!made) {
    fmt::print(stderr, "{}\n", made.error());
    std::exit(1);
  }
  (*made)->connect(port);
  (*made)->reset();
  Driver driver(**made, port);
  if (!driver.enable()) std::abort();
  if (shadow && driver.use_shadow_doorbells() != CommandStatus::success) std::abort();
  Driver::Queue queue = driver.create_queue(1, 128);
  queue.shadow = shadow;
  const std::uint64_t data = driver.allocate(64);
  Random random;
  for (const IoOpcode opcode : {IoOpcode::read, IoOpcode::write}) {
    for (const unsigned depth : {1U, 32U}) {
      const unsigned interrupts = port.raised(1);
      const unsigned doorbells = driver.doorbells_rung();
      measure(
          fmt::format("{} depth {}{}", opcode == IoOpcode::read ? "read" : "write", depth,
                      shadow ? ", shadow doorbells" : ""),
          depth,
          [&] {
            for (unsigned i = 0; i < depth; ++i) {
              Command command = Driver::io(opcode, random.block(), 1);
              driver.set_prps(command, data + i * 4096ULL, 4096);
              driver.put(queue, command);
              driver.ring_tail(queue);
            }
            for (unsigned i = 0; i < depth; ++i) {
              if (Driver::status_of(driver.take(queue)) != CommandStatus::success) std::abort();
            }
          },
          [&](double count) {
            return fmt::format(" {:5.2f} interrupts {:5.2f} doorbells",
                               (port.raised(1) - interrupts) / count,
                               (driver.doorbells_rung() - doorbells) / count);
          });
    }
  }
  (*made)->reset();
}

}  // namespace

int main() {
  const TestFile file(kFile);
  {
    // All of it in the page cache.
    const Fd fd(open(file.path().c_str(), O_RDWR | O_CLOEXEC));
    const std::vector<std::byte> zeros(1 << 20, std::byte{1});
    for (std::uint64_t at = 0; at < kFile; at += zeros.size()) {
      if (pwrite(fd.get(), zeros.data(), zeros.size(), static_cast<off_t>(at)) < 0) return 1;
    }
  }
  bare_file(file);
  disk(file, false);
  disk(file, true);
  return 0;
}
