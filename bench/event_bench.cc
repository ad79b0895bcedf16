// What it costs to signal an eventfd, beside a bare write(2) of it.

#include <benchmark/benchmark.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "uvfio/fd.h"

namespace uvfio {
namespace {

void write_one(int fd) {
  const std::uint64_t one = 1;
  benchmark::DoNotOptimize(write(fd, &one, sizeof one));
}

// Nobody waits. Argument 0: EventFd::signal; 1: write(2).
void signal_nobody(benchmark::State& state) {
  const auto event = EventFd::from(Fd(eventfd(0, 0)));
  for (auto _ : state) {
    if (state.range(0) == 0) {
      event->signal();
    } else {
      write_one(event->get());
    }
  }
}
BENCHMARK(signal_nobody)->Arg(0)->Arg(1);

// Wakes up a thread that sleeps in read(2), and waits for its answer by a bare write(2). Arguments
// as above. Run with `taskset -c 0`, where no CPU has to be woken up.
void wake_reader(benchmark::State& state) {
  const auto there = EventFd::from(Fd(eventfd(0, 0)));
  const auto back = EventFd::from(Fd(eventfd(0, 0)));
  std::atomic<bool> stop = false;
  std::thread reader([&] {
    eventfd_t count = 0;
    while (eventfd_read(there->get(), &count) == 0 && !stop) write_one(back->get());
  });
  for (auto _ : state) {
    if (state.range(0) == 0) {
      there->signal();
    } else {
      write_one(there->get());
    }
    eventfd_t count = 0;
    eventfd_read(back->get(), &count);
  }
  stop = true;
  write_one(there->get());
  reader.join();
}
BENCHMARK(wake_reader)->Arg(0)->Arg(1)->UseRealTime();

}  // namespace
}  // namespace uvfio

BENCHMARK_MAIN();
