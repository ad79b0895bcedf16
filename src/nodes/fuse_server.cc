#include "nodes/fuse_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstring>
#include <functional>

#include "nodes/fuse_operations.h"
#include "nodes/fuse_session.h"
#include "nodes/private_ioctls.h"

namespace uvfio::nodes {

class FuseServer::Impl {
 public:
  Impl(std::shared_ptr<Directory> root, const Options& options)
      : session_(options.passthrough, options.max_threads),
        private_ioctls_(self_),
        operations_(std::move(root), session_, private_ioctls_) {}
  ~Impl();

  std::string start();
  Result<std::shared_ptr<OpenNode>> identify(const Fd& fd);
  [[nodiscard]] bool owns(const Fd& fd) const;

  FuseSession session_;
  SelfClient self_;
  Errands errands_;

 private:
  PrivateIoctls private_ioctls_;
  FuseOperations operations_;
  Fd control_;  // the root, opened: takes the pills
  dev_t device_ = 0;
};

FuseServer::Impl::~Impl() {
  // The last questions need workers, the last workers need the pills' file. Only then are the
  // clients' files dropped, which is what slow requests wait for.
  operations_.finish_asking();
  std::function<bool()> send_pill;
  if (control_) {
    send_pill = [this] { return private_ioctls_.ask(control_, kPill).has_value(); };
  } else {
    self_.stop();  // its root keeps the mount, whose end has to end the workers
  }
  session_.stop_workers(send_pill);
  operations_.drop_files();
  session_.close();
  control_.reset();
}

std::string FuseServer::Impl::start() {
  if (std::string problem = session_.start(operations_); !problem.empty()) {
    return problem;
  }
  if (!self_.start(session_.root())) {
    return fmt::format("cannot start a thread with descriptors of its own: {}", strerror(errno));
  }
  session_.workers().set_own_thread(self_.thread());
  const auto turn = self_.turn();
  auto control = self_.open(".", O_RDONLY | O_DIRECTORY);
  if (!control) {
    return fmt::format("cannot open the FUSE file system: {}", strerror(value(control.error())));
  }
  control_ = std::move(*control);
  struct statx info {};
  if (::statx(session_.root().get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &info) != 0) {
    return fmt::format("cannot open the FUSE file system: {}", strerror(errno));
  }
  device_ = makedev(info.stx_dev_major, info.stx_dev_minor);
  return {};
}

Result<std::shared_ptr<OpenNode>> FuseServer::Impl::identify(const Fd& fd) {
  if (!owns(fd)) {
    return fail(fcntl(fd.get(), F_GETFD) < 0 ? EBADF : EBADFD);
  }
  auto answer = private_ioctls_.ask(fd, kIdentify);
  if (!answer) {
    return fail(answer.error() == Errno{EBADF} ? EBADF : EBADFD);
  }
  if (!*answer) {
    return fail(EBADFD);
  }
  // The asker wants to know things as they are after what its client has closed before.
  session_.workers().settle((*answer)->ties());
  return answer;
}

bool FuseServer::Impl::owns(const Fd& fd) const {
  struct statx info {};
  return ::statx(fd.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &info) == 0 &&
         makedev(info.stx_dev_major, info.stx_dev_minor) == device_;
}

FuseServer::FuseServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FuseServer::~FuseServer() = default;

std::expected<std::unique_ptr<FuseServer>, std::string> FuseServer::create(
    std::shared_ptr<Directory> root, const Options& options) {
  auto impl = std::make_unique<Impl>(std::move(root), options);
  if (std::string problem = impl->start(); !problem.empty()) {
    return std::unexpected(std::move(problem));
  }
  return std::unique_ptr<FuseServer>(new FuseServer(std::move(impl)));
}

const Fd& FuseServer::root() const { return impl_->session_.root(); }
Passthrough& FuseServer::passthrough() { return impl_->session_.passthrough(); }
SelfClient& FuseServer::self() { return impl_->self_; }
Errands& FuseServer::errands() { return impl_->errands_; }
void FuseServer::settle_errands(const Ties& ties) {
  impl_->errands_.wait();
  impl_->session_.workers().settle(ties);
}
void FuseServer::watch_closes(const char* path) {
  impl_->session_.workers().closes().add(impl_->session_.root(), path);
}
Result<std::shared_ptr<OpenNode>> FuseServer::identify(const Fd& fd) { return impl_->identify(fd); }
bool FuseServer::owns(const Fd& fd) const { return impl_->owns(fd); }

}  // namespace uvfio::nodes
