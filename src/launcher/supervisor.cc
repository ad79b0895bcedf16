#include "launcher/supervisor.h"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/vfio.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "memory/process.h"
#include "nodes/trace.h"
#include "uapi/ioctl.h"
#include "uapi/user_struct.h"

namespace uvfio::launcher {

// One notified system call of one thread, which waits for an answer.
class Supervisor::Call final : public uapi::Caller {
 public:
  Call(nodes::Server& server, const Fd& listener, const seccomp_notif& notification)
      : server_(server), listener_(listener), notification_(notification) {}

  [[nodiscard]] int fd() const { return static_cast<int>(notification_.data.args[0]); }
  [[nodiscard]] std::uint32_t command() const {
    return static_cast<std::uint32_t>(notification_.data.args[1]);
  }
  [[nodiscard]] std::uint64_t arg() const { return notification_.data.args[2]; }
  [[nodiscard]] pid_t thread() const { return static_cast<pid_t>(notification_.pid); }

  // Is the thread still in this very call? Only then its number means what it meant.
  [[nodiscard]] bool alive() const {
    return ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_ID_VALID, &notification_.id) == 0;
  }

  // Each call gets exactly one of these.
  void proceed() const {
    respond({.id = notification_.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE});
  }
  void answer(const Result<int>& result) const {
    respond({.id = notification_.id,
             .val = result ? *result : 0,
             .error = result ? 0 : -value(result.error())});
  }

  Status copy_in(std::uint64_t user, std::span<std::byte> data) override {
    if (!memory::copy_from_thread(thread(), user, data) || !alive()) return fail(EFAULT);
    return {};
  }
  Status copy_out(std::uint64_t user, std::span<const std::byte> data) override {
    // The thread's number alone would be too little: killed, it could be another's by now.
    if (!memory::copy_to_thread_if(thread(), user, data, [this] { return alive(); })) {
      return fail(EFAULT);
    }
    return {};
  }
  Result<int> install(std::shared_ptr<vfio::DeviceFile> file) override {
    return add_fd(server_.open_device(std::move(file)));
  }
  Result<int> install(std::shared_ptr<vfio::MigrationStream> stream, bool readable) override {
    return add_fd(server_.open_stream(std::move(stream), readable));
  }
  bool can_mmap() const override { return server_.passthrough(); }

  // The ioctls that come here need none of these.
  Result<Fd> get(int) override { return fail(EBADF); }
  Result<std::shared_ptr<vfio::Container>> container(int) override { return fail(EBADF); }
  Result<std::shared_ptr<vfio::GroupFile>> group(int) override { return fail(EBADF); }
  Result<std::shared_ptr<memory::AddressSpace>> address_space() override { return fail(EINVAL); }
  bool can_lock_memory() override { return false; }

 private:
  void respond(seccomp_notif_resp response) const {
    // ENOENT: the client has been killed meanwhile, and nobody waits.
    if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) != 0 && errno != ENOENT) {
      spdlog::error("supervisor: cannot answer thread {}: {}", thread(), strerror(errno));
    }
  }
  // Gives the client its descriptor and closes ours, before the client goes on: what it closes then
  // is closed. That is why the answer is not sent in the same step (SECCOMP_ADDFD_FLAG_SEND): the
  // client would run on while ours is open, and find its group or container busy.
  Result<int> add_fd(Result<Fd> fd) {
    if (!fd) return std::unexpected(fd.error());
    seccomp_notif_addfd add{.id = notification_.id,
                            .flags = 0,
                            .srcfd = static_cast<std::uint32_t>(fd->get()),
                            .newfd = 0,
                            .newfd_flags = O_CLOEXEC};
    const int added = ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    // ENOENT: the client has been killed, and its descriptors with it.
    if (added < 0) return fail(errno == ENOENT ? EINTR : errno);
    return added;
  }

  nodes::Server& server_;
  const Fd& listener_;
  const seccomp_notif& notification_;
};

namespace {

// Of the features only VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE returns a descriptor, and only by SET.
bool sets_device_state(uapi::Caller& client, std::uint64_t arg) {
  vfio_device_feature header{};
  if (!uapi::copy_struct_in(client, arg, header)) return false;
  return (header.flags & VFIO_DEVICE_FEATURE_MASK) == VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE &&
         (header.flags & VFIO_DEVICE_FEATURE_SET) != 0;
}

}  // namespace

Supervisor::Supervisor(nodes::Server& server, Fd listener)
    : server_(server), listener_(std::move(listener)), stop_(EventFd::create().value()) {
  const std::scoped_lock lock(mutex_);
  start_worker_locked();
}

Supervisor::~Supervisor() {
  std::vector<std::thread> workers;
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    workers.swap(workers_);
  }
  stop_.signal();
  for (auto& worker : workers) worker.join();
}

void Supervisor::start_worker_locked() {
  ++idle_;
  workers_.emplace_back([this] { work(); });
}

// Waits for a call. False: there will be none any more.
bool Supervisor::receive(seccomp_notif& notification) {
  const std::scoped_lock one_at_a_time(receive_mutex_);
  for (;;) {
    std::array<pollfd, 2> ready{pollfd{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                                pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    if (poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) return false;
    if (ready[1].revents != 0) return false;
    if ((ready[0].revents & POLLIN) != 0) {
      notification = {};
      if (ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &notification) == 0) return true;
      // The client was killed meanwhile; or a signal came.
    } else if (ready[0].revents != 0) {
      return false;  // POLLHUP: the last process with the filter has gone
    }
  }
}

// Each worker waits its turn, and before it serves sees to it that somebody else waits.
void Supervisor::work() {
  seccomp_notif notification{};
  while (receive(notification)) {
    {
      const std::scoped_lock lock(mutex_);
      --idle_;
      try {
        if (idle_ == 0 && !stopping_ && workers_.size() < kMaxWorkers) start_worker_locked();
      } catch (const std::system_error& error) {
        --idle_;
        spdlog::warn("supervisor: no further thread: {}", error.what());
      }
    }
    auto client = static_cast<pid_t>(notification.pid);
    if (share_.admit(client, [&] { return notification; })) {
      serve(notification);
      while (const auto next = share_.finish(client)) {
        client = next->first;
        serve(next->second);
      }
    }
    const std::scoped_lock lock(mutex_);
    ++idle_;
  }
}

nodes::OpenFile Supervisor::file_of(const Call& call) {
  if (!call.alive()) return {};
  const auto fd = memory::duplicate_from_thread(call.thread(), call.fd());
  if (!fd || !call.alive()) return {};
  return server_.identify(*fd);
}

// The ioctl's result; nullopt if the kernel shall go on with the call, to FUSE or wherever it
// leads. Nothing of the client's is held any more on return.
std::optional<Result<int>> Supervisor::handle(Call& call) {
  const auto file = file_of(call);
  if (call.command() == VFIO_GROUP_GET_DEVICE_FD) {
    const auto* group = std::get_if<std::shared_ptr<vfio::GroupFile>>(&file);
    if (group == nullptr) return std::nullopt;
    return nodes::traced(nodes::FileKind::group, call.thread(), call.command(),
                         uapi::group_ioctl(*group, call, call.command(), call.arg()));
  }
  const auto* device = std::get_if<std::shared_ptr<vfio::DeviceFile>>(&file);
  if (device == nullptr || !sets_device_state(call, call.arg())) return std::nullopt;
  return nodes::traced(nodes::FileKind::device, call.thread(), call.command(),
                       uapi::device_ioctl(**device, call, call.command(), call.arg()));
}

void Supervisor::serve(const seccomp_notif& notification) {
  Call call(server_, listener_, notification);
  try {
    auto errand = server_.errand([&call] { return call.alive(); });
    const auto result = handle(call);
    errand.reset();
    if (result) {
      call.answer(*result);
    } else {
      call.proceed();
    }
  } catch (const std::exception& error) {
    spdlog::error("supervisor: a request failed: {}", error.what());
    call.answer(fail(ENOMEM));
  }
}

}  // namespace uvfio::launcher
