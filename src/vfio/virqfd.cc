#include "vfio/virqfd.h"

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/log.h"

namespace uvfio::vfio {

struct EventPoller::Watch {
  Watch(EventFd event_fd, Virqfd::Handler callback)
      : event(std::move(event_fd)), handler(std::move(callback)) {}
  const EventFd event;
  const Virqfd::Handler handler;
  std::uint64_t id = 0;
  std::mutex running;  // held while the handler runs
  bool detached = false;
  std::uint64_t left = 0;  // there was when it was attached, and stays until the next signal

  // virqfd_enable: a count that is there already is a signal, but is not taken.
  void attach() {
    const std::lock_guard lock(running);
    left = event.count();
    if (left != 0) handler();
  }
  void signalled() {
    const std::lock_guard lock(running);
    // The first time it may be what attach() has seen.
    if (const auto before = std::exchange(left, 0); before != 0 && event.count() == before) return;
    if (!detached && event.consume()) handler();
  }
};

class EventPoller::Thread {
 public:
  // `thread_` is not joinable: it could not be made.
  Thread() {
    auto stop = EventFd::create();
    Fd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!stop || !epoll) return;
    epoll_event event{.events = EPOLLIN, .data = {.u64 = kStop}};
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop->get(), &event) != 0) return;
    epoll_ = std::move(epoll);
    stop_ = std::make_unique<EventFd>(std::move(*stop));
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
      spdlog::error("cannot start the thread that waits for eventfds: {}", error.what());
    }
  }
  ~Thread() {
    if (!thread_.joinable()) return;
    stop_->signal();
    thread_.join();
  }
  [[nodiscard]] bool works() const { return thread_.joinable(); }

  Status add(const std::shared_ptr<Watch>& watch) {
    const std::lock_guard lock(mutex_);
    watch->id = ++last_id_;
    // By edges: one call for each signal, even if an eventfd (a semaphore) stays readable.
    // Otherwise a client could keep the thread busy with a single write.
    epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.u64 = watch->id}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, watch->event.get(), &event) != 0) return fail(errno);
    watches_.emplace(watch->id, watch);
    return {};
  }

  void remove(Watch& watch) {
    const std::lock_guard lock(mutex_);
    if (watches_.erase(watch.id) == 0) return;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watch.event.get(), nullptr);
  }

 private:
  static constexpr std::uint64_t kStop = 0;

  void run() {
    std::array<epoll_event, 64> events{};
    while (true) {
      const int ready =
          epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
      for (int i = 0; i < ready; ++i) {
        const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
        if (id == kStop) return;
        if (const auto watch = find(id)) watch->signalled();
      }
    }
  }

  std::shared_ptr<Watch> find(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = watches_.find(id);
    return found == watches_.end() ? nullptr : found->second;
  }

  Fd epoll_;
  std::unique_ptr<EventFd> stop_;
  std::mutex mutex_;  // guards the rest
  std::map<std::uint64_t, std::shared_ptr<Watch>> watches_;
  std::uint64_t last_id_ = kStop;
  std::thread thread_;
};

EventPoller::EventPoller() = default;
EventPoller::~EventPoller() = default;

EventPoller& EventPoller::shared() {
  static EventPoller poller;
  return poller;
}

Result<EventPoller::Thread*> EventPoller::thread() {
  const std::lock_guard lock(mutex_);
  if (!thread_) {
    auto made = std::make_unique<Thread>();
    if (!made->works()) return fail(ENOMEM);
    thread_ = std::move(made);
  }
  return thread_.get();
}

Status Virqfd::enable(EventFd event, Handler handler, EventPoller& poller) {
  if (watch_) return fail(EBUSY);
  const auto thread = poller.thread();
  if (!thread) return std::unexpected(thread.error());
  auto watch = std::make_shared<EventPoller::Watch>(std::move(event), std::move(handler));
  watch->attach();
  if (auto added = (*thread)->add(watch); !added) return added;
  poller_ = &poller;
  watch_ = std::move(watch);
  return {};
}

void Virqfd::disable() {
  if (!watch_) return;
  if (const auto thread = poller_->thread()) (*thread)->remove(*watch_);
  {
    const std::lock_guard lock(watch_->running);
    watch_->detached = true;
    // What is there goes, as with eventfd_ctx_remove_wait_queue.
    static_cast<void>(watch_->event.consume());
  }
  watch_.reset();
}

}  // namespace uvfio::vfio
