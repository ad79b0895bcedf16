#include "nodes/workers.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

namespace uvfio::nodes {
namespace {

// Threads that wait for requests: as many from the start as are kept after a burst, so that the
// server in peace is always the same.
constexpr int kIdleThreads = 4;
// Workers that no client's request takes, for closes and our own questions.
constexpr unsigned kReserve = 4;
// How long a request waits for closes that were queued before it. They only wait for device models.
constexpr auto kSettleLimit = std::chrono::seconds(2);

thread_local std::shared_ptr<Channel> current;
thread_local bool pill_taken = false;

std::shared_ptr<Channel> clone_of(const Channel& main) {
  auto channel = std::make_shared<Channel>();
  channel->owned.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  std::uint32_t source = static_cast<std::uint32_t>(main.fd);
  if (!channel->owned || ioctl(channel->owned.get(), FUSE_DEV_IOC_CLONE, &source) != 0) {
    // Sharing the main one works as well, only with more contention.
    channel->owned.reset();
    channel->fd = main.fd;
    return channel;
  }
  channel->fd = channel->owned.get();
  return channel;
}

}  // namespace

struct WorkerPool::Worker {
  std::thread thread;
  // Odd while a request is being served, even while waiting for one in read(2).
  std::atomic<std::uint64_t> stamp{0};
  // With an odd stamp: is it a RELEASE, and does anybody know of what?
  enum class Release : std::uint8_t { none, of_unknown, of_known };
  std::atomic<Release> release{Release::none};
  std::atomic<const void*> group{nullptr};  // with of_known: its Ties
  std::atomic<const void*> container{nullptr};
  std::atomic<int> stat{-1};  // this thread's /proc/thread-self/stat
  ~Worker() {
    if (stat >= 0) {
      close(stat);
    }
  }

  // Is the thread asleep? Together with an even stamp: it waits for a request.
  [[nodiscard]] bool asleep() const {
    std::array<char, 128> text{};
    const ssize_t size = pread(stat.load(), text.data(), text.size(), 0);
    if (size < 0 && errno == ESRCH) {
      return true;  // the thread has ended: it will serve nothing more
    }
    const std::string_view line(text.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    const std::size_t end = line.rfind(") ");
    return end != std::string_view::npos && end + 2 < line.size() && line[end + 2] == 'S';
  }
};

namespace {
thread_local void* this_worker = nullptr;
}

WorkerPool::WorkerPool(fuse_session* session, int device, unsigned max_threads)
    : session_(session),
      main_(std::make_shared<Channel>(Channel{Fd(), device})),
      max_threads_(std::max(max_threads, 2U)),
      share_(max_threads_ - std::min(kReserve, max_threads_ / 2)) {}

WorkerPool::~WorkerPool() = default;

WorkerPool::Borrow::Borrow(std::shared_ptr<Channel> channel)
    : previous_(std::exchange(current, std::move(channel))) {}
WorkerPool::Borrow::~Borrow() { current = std::move(previous_); }

std::shared_ptr<Channel> WorkerPool::channel() const { return current ? current : main_; }

ssize_t WorkerPool::receive(void* buffer, std::size_t size) {
  const int fd = current ? current->fd : main_->fd;
  auto* worker = static_cast<Worker*>(this_worker);
  const ssize_t result = read(fd, buffer, size);
  if (worker != nullptr && result >= static_cast<ssize_t>(sizeof(fuse_in_header))) {
    fuse_in_header header{};
    std::memcpy(&header, buffer, sizeof(header));
    worker->release.store(
        header.opcode == FUSE_RELEASE ? Worker::Release::of_unknown : Worker::Release::none,
        std::memory_order_relaxed);
    worker->stamp.fetch_add(1, std::memory_order_release);
  }
  return result;
}

ssize_t WorkerPool::send(const iovec* pieces, int count) {
  return writev(current ? current->fd : main_->fd, pieces, count);
}

void WorkerPool::take_pill() { pill_taken = true; }

bool WorkerPool::start() {
  for (int i = 0; i < kIdleThreads; ++i) {
    if (!spawn() && i == 0) {
      return false;
    }
  }
  return true;
}

bool WorkerPool::spawn() {
  std::vector<std::thread> done;
  bool started = false;
  {
    const std::lock_guard lock(mutex_);
    done.swap(gone_);
    if (!stopping_ && workers_.size() < max_threads_) {
      const auto& worker = workers_.emplace_back(std::make_shared<Worker>());
      idle_.fetch_add(1, std::memory_order_relaxed);
      try {
        worker->thread = std::thread([this, worker] { run(*worker); });
        started = true;
      } catch (const std::system_error& error) {
        spdlog::warn("nodes: no further worker thread: {}", error.what());
        idle_.fetch_sub(1, std::memory_order_relaxed);
        workers_.pop_back();
      }
    }
  }
  for (auto& thread : done) {
    thread.join();
  }
  return started;
}

void WorkerPool::run(Worker& worker) {
  current = clone_of(*main_);
  this_worker = &worker;
  pill_taken = false;
  worker.stat = open("/proc/thread-self/stat", O_RDONLY | O_CLOEXEC);
  fuse_buf buffer{};
  while (true) {
    const int size = fuse_session_receive_buf(session_, &buffer);
    if (size == -EINTR || size == -EAGAIN) {
      continue;
    }
    if (size <= 0) {  // unmounted or aborted
      break;
    }
    if (idle_.fetch_sub(1, std::memory_order_relaxed) == 1) {
      spawn();
    }
    serve(worker, buffer);
    const bool surplus = idle_.fetch_add(1, std::memory_order_relaxed) >= kIdleThreads;
    worker.stamp.fetch_add(1, std::memory_order_release);
    if ((pill_taken || surplus) && leave(worker, pill_taken)) {
      free(buffer.mem);
      return;
    }
  }
  free(buffer.mem);
  leave(worker, true);
}

void WorkerPool::serve(Worker& worker, const fuse_buf& request) {
  fuse_in_header header{};
  std::memcpy(&header, request.mem, std::min(request.size, sizeof header));
  // What is nobody's (a RELEASE), or our own, others wait for.
  if (header.pid == 0 ||
      static_cast<pid_t>(header.pid) == own_thread_.load(std::memory_order_relaxed)) {
    fuse_session_process_buf(session_, &request);
    return;
  }
  auto client = static_cast<pid_t>(header.pid);
  const auto keep = [&] {
    const auto* data = static_cast<const std::byte*>(request.mem);
    return Waiting{.data = {data, data + request.size}, .channel = current};
  };
  if (!share_.admit(client, keep)) {
    return;
  }
  fuse_session_process_buf(session_, &request);
  while (auto next = share_.finish(client)) {
    client = next->first;
    fuse_buf kept{};
    kept.mem = next->second.data.data();
    kept.size = next->second.data.size();
    const Borrow borrow(std::move(next->second.channel));
    worker.release.store(Worker::Release::none, std::memory_order_relaxed);
    fuse_session_process_buf(session_, &kept);
  }
}

void WorkerPool::releases(const Ties& ties) {
  auto& worker = *static_cast<Worker*>(this_worker);
  worker.group.store(ties.group, std::memory_order_relaxed);
  worker.container.store(ties.container, std::memory_order_relaxed);
  worker.release.store(Worker::Release::of_known, std::memory_order_release);
}

bool WorkerPool::leave(Worker& worker, bool pill) {
  const std::lock_guard lock(mutex_);
  // While stopping, pills are counted: nobody leaves without one.
  if (!pill && (stopping_ || idle_.load(std::memory_order_relaxed) <= kIdleThreads)) {
    return false;
  }
  idle_.fetch_sub(1, std::memory_order_relaxed);
  const auto it = std::ranges::find_if(workers_, [&](const auto& w) { return w.get() == &worker; });
  gone_.push_back(std::move(worker.thread));
  workers_.erase(it);
  left_.notify_all();
  return true;
}

void WorkerPool::stop(const std::function<bool()>& send_pill) {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    while (!workers_.empty()) {
      const std::size_t before = workers_.size();
      lock.unlock();
      const bool alive = send_pill();
      lock.lock();
      // The worker answers the pill before it leaves. On a dead connection all leave by themselves.
      left_.wait(lock, [&] { return alive ? workers_.size() < before : workers_.empty(); });
    }
  }
  for (auto& thread : gone_) {
    thread.join();
  }
  gone_.clear();
}

void WorkerPool::settle(const Ties& ties) {
  if (!closes_.may_have_closed()) {
    return;
  }
  const CloseWatch::Wait wait(closes_);
  const auto give_up = std::chrono::steady_clock::now() + kSettleLimit;
  // Requests are read in the order in which they were queued. So a RELEASE that precedes the
  // current request has been read; its worker is either serving it (odd stamp), or on the way
  // there: back from read(2) or about to be, with an even stamp, but not asleep.
  std::vector<std::shared_ptr<Worker>> workers;
  {
    const std::lock_guard lock(mutex_);
    workers = workers_;
  }
  for (const auto& worker : workers) {
    if (worker.get() == this_worker) {
      continue;
    }
    std::optional<std::uint64_t> release;  // stamp of the RELEASE that is waited for
    auto pause = std::chrono::microseconds(5);
    for (;;) {
      const std::uint64_t stamp = worker->stamp.load(std::memory_order_acquire);
      if (release && stamp != *release) {
        break;
      }
      if (stamp % 2 == 1) {
        const auto kind = worker->release.load(std::memory_order_acquire);
        const Ties released{.group = worker->group.load(std::memory_order_relaxed),
                            .container = worker->container.load(std::memory_order_relaxed)};
        if (worker->stamp.load(std::memory_order_acquire) != stamp) {
          continue;  // that was of two requests
        }
        if (kind == Worker::Release::none ||
            (kind == Worker::Release::of_known && !released.shared_with(ties))) {
          break;
        }
        release = stamp;
      } else if (worker->asleep() && worker->stamp.load(std::memory_order_acquire) == stamp) {
        break;  // in read(2), not in a lock of a handler: the stamp was the same before and after
      }
      if (std::chrono::steady_clock::now() > give_up) {
        spdlog::warn("nodes: a device takes more than {} s to close", kSettleLimit.count());
        return;
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, std::chrono::microseconds(1000));
    }
  }
}

}  // namespace uvfio::nodes
