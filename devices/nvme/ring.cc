#include "devices/nvme/ring.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace uvfio::nvme {
namespace {

constexpr unsigned kEntries = 256;  // queued at once
// Above the commands that a controller takes. A flush of several namespaces is several operations:
// the kernel keeps what finds no room.
constexpr unsigned kCompletions = 4096;
// A write to the page cache that takes this long, more than a turn of other programs on this CPU,
// has waited for the disk; those of the next time are likely to wait as well.
constexpr std::chrono::milliseconds kSlow{10};
constexpr std::chrono::milliseconds kSlowFor{100};

}  // namespace

std::expected<std::unique_ptr<Ring>, std::string> Ring::create() {
  std::unique_ptr<Ring> ring(new Ring);
  // Blocking: the ring waits for a blocking descriptor, but fails at once on any other.
  ring->wakeup_ = Fd(eventfd(0, EFD_CLOEXEC));
  if (!ring->wakeup_)
    return std::unexpected(std::string("cannot create an eventfd: ") + strerror(errno));

  // Best for one thread that sleeps for several things (Linux 6.1); older kernels do without.
  int error = -EINVAL;
  for (const unsigned flags : {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0U}) {
    io_uring_params parameters{};
    parameters.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE;
    parameters.cq_entries = kCompletions;
    error = io_uring_queue_init_params(kEntries, &ring->ring_, &parameters);
    if (error != -EINVAL) break;
  }
  if (error < 0) {
    return std::unexpected(std::string("the disk needs io_uring, which the kernel refuses: ") +
                           strerror(-error) +
                           " (see /proc/sys/kernel/io_uring_disabled and seccomp filters)");
  }
  ring->started_ = true;
  return ring;
}

Ring::~Ring() {
  if (started_) io_uring_queue_exit(&ring_);
}

void Ring::enter() {
  // liburing 2.3 declares io_uring_enable_rings, but does not have it.
  syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  watch_wakeups();
}

io_uring_sqe* Ring::next_entry() {
  for (;;) {
    if (io_uring_sqe* entry = io_uring_get_sqe(&ring_)) return entry;
    io_uring_submit(&ring_);
  }
}

void Ring::start(io_uring_sqe* entry, IoTarget& target) {
  io_uring_sqe_set_data(entry, &target);
  ++in_flight_;
}

void Ring::watch_wakeups() {
  io_uring_sqe* entry = next_entry();
  io_uring_prep_read(entry, wakeup_.get(), &wakeup_count_, sizeof wakeup_count_, 0);
  io_uring_sqe_set_data(entry, nullptr);
}

void Ring::read(int fd, std::span<const iovec> data, std::uint64_t offset, IoTarget& target) {
  io_uring_sqe* entry = next_entry();
  if (data.size() == 1) {
    io_uring_prep_read(entry, fd, data[0].iov_base, static_cast<unsigned>(data[0].iov_len), offset);
  } else {
    io_uring_prep_readv(entry, fd, data.data(), static_cast<unsigned>(data.size()), offset);
  }
  start(entry, target);
}

// False: the ring's work, as the disk has been slow.
bool Ring::write_now(int fd, std::span<const iovec> data, std::uint64_t offset, IoTarget& target) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  if (begin < slow_until_) return false;
  const auto where = static_cast<off_t>(offset);
  const ssize_t written = data.size() == 1
                              ? pwrite(fd, data[0].iov_base, data[0].iov_len, where)
                              : pwritev(fd, data.data(), static_cast<int>(data.size()), where);
  end(target, written < 0 ? -errno : static_cast<int>(written));
  const Clock::time_point end = Clock::now();
  if (end - begin > kSlow) slow_until_ = end + kSlowFor;
  return true;
}

void Ring::write(int fd, std::span<const iovec> data, std::uint64_t offset, bool durable,
                 IoTarget& target) {
  if (!durable && write_now(fd, data, offset, target)) return;
  io_uring_sqe* entry = next_entry();
  if (data.size() == 1) {
    io_uring_prep_write(entry, fd, data[0].iov_base, static_cast<unsigned>(data[0].iov_len),
                        offset);
  } else {
    io_uring_prep_writev(entry, fd, data.data(), static_cast<unsigned>(data.size()), offset);
  }
  if (durable) entry->rw_flags = RWF_DSYNC;
  start(entry, target);
}

void Ring::sync_data(int fd, IoTarget& target) {
  io_uring_sqe* entry = next_entry();
  io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
  start(entry, target);
}

void Ring::punch_hole(int fd, std::uint64_t offset, std::uint64_t size, IoTarget& target) {
  io_uring_sqe* entry = next_entry();
  // Set by hand: the helper of liburing 2.3 takes signed offsets that differ between versions.
  io_uring_prep_rw(IORING_OP_FALLOCATE, entry, fd, nullptr,
                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset);
  entry->addr = size;
  start(entry, target);
}

void Ring::end(IoTarget& target, int result) {
  ended_.push_back({&target, result});
  ++in_flight_;
}

void Ring::poll() {
  if (io_uring_sq_ready(&ring_) != 0 || in_flight_ != ended_.size())
    io_uring_submit_and_get_events(&ring_);
  reap();
}

void Ring::sleep(std::optional<std::chrono::nanoseconds> timeout) {
  if (!timeout) {
    io_uring_submit_and_wait(&ring_, 1);
    return;
  }
  __kernel_timespec time{.tv_sec = timeout->count() / 1000000000,
                         .tv_nsec = timeout->count() % 1000000000};
  io_uring_cqe* ended = nullptr;
  io_uring_submit_and_wait_timeout(&ring_, &ended, 1, &time, nullptr);
}

void Ring::reap() {
  io_uring_cqe* ended = nullptr;
  while (io_uring_peek_cqe(&ring_, &ended) == 0) {
    auto* target = static_cast<IoTarget*>(io_uring_cqe_get_data(ended));
    const int result = ended->res;
    io_uring_cqe_seen(&ring_, ended);
    if (target == nullptr) {
      watch_wakeups();
      continue;
    }
    --in_flight_;
    target->io_done(result);
  }
  // Whoever is told may begin the next.
  telling_.swap(ended_);
  for (const Ended& each : telling_) {
    --in_flight_;
    each.target->io_done(each.result);
  }
  telling_.clear();
}

void Ring::wake() {
  if (!asleep_.exchange(false)) return;
  const std::uint64_t one = 1;
  // A full counter wakes as well.
  static_cast<void>(!::write(wakeup_.get(), &one, sizeof one));
}

}  // namespace uvfio::nvme
