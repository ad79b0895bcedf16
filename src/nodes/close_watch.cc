#include "nodes/close_watch.h"

#include <fmt/format.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

namespace uvfio::nodes {

void CloseWatch::add(const Fd& root, const char* path) {
  const bool first = !inotify_;
  if (first) inotify_.reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  const std::string directory = fmt::format("/proc/self/fd/{}/{}", root.get(), path);
  const bool added =
      inotify_ && inotify_add_watch(inotify_.get(), directory.c_str(), IN_CLOSE) >= 0;
  complete_.store(added && (first || complete_.load()));
}

bool CloseWatch::may_have_closed() const {
  if (!complete_.load(std::memory_order_relaxed)) return true;
  int queued = 0;
  if (ioctl(inotify_.get(), FIONREAD, &queued) != 0 || queued != 0) return true;
  // Who emptied the queue counted up before.
  return waiting_.load() != 0;
}

CloseWatch::Wait::Wait(CloseWatch& watch) : watch_(watch) {
  watch_.waiting_.fetch_add(1);
  std::array<char, 4096> events;
  while (watch_.inotify_ && read(watch_.inotify_.get(), events.data(), events.size()) > 0) {
  }
}

}  // namespace uvfio::nodes
