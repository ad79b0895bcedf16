#include "nodes/fuse_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstring>
#include <new>
#include <optional>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include "memory/process.h"
#include "nodes/fuse_compat.h"
#include "nodes/handle.h"
#include "nodes/lanes.h"
#include "nodes/mount.h"
#include "nodes/self_client.h"
#include "nodes/workers.h"

namespace uvfio::nodes {
namespace {

// Our own questions to ourselves. They count only when the asking thread is one of ours, which the
// kernel vouches for; from anybody else they are ordinary unknown ioctls.
constexpr unsigned kIdentify = _IO('u', 0xf1);
constexpr unsigned kPill = _IO('u', 0xf2);

// Requests up to this size are served from the stack.
constexpr std::size_t kSmall = 8192;

// FUSE gives some errors a meaning of their own: ENOSYS says that a request is never to be made
// again, for any file.
int reply_value(Errno error) {
  const int number = value(error);
  if (number <= 0 || number >= 512) {
    return EIO;
  }
  return number == ENOSYS ? EOPNOTSUPP : number;
}

void reply(fuse_req_t request, const Result<int>& result) {
  if (result) {
    fuse_reply_ioctl(request, *result, nullptr, 0);
  } else {
    fuse_reply_err(request, reply_value(result.error()));
  }
}

mode_t type_bits(Kind kind) {
  switch (kind) {
    case Kind::directory:
      return S_IFDIR;
    case Kind::link:
      return S_IFLNK;
    case Kind::attribute:
    case Kind::device:  // FUSE cannot be asked about a real S_IFCHR: the kernel would look for its
                        // driver
      break;
  }
  return S_IFREG;
}

void log_fuse(fuse_log_level level, const char* format, va_list arguments) {
  std::array<char, 512> text{};
  vsnprintf(text.data(), text.size(), format, arguments);
  std::string_view line(text.data());
  while (line.ends_with('\n')) {
    line.remove_suffix(1);
  }
  spdlog::log(level <= FUSE_LOG_ERR       ? spdlog::level::err
              : level == FUSE_LOG_WARNING ? spdlog::level::warn
                                          : spdlog::level::debug,
              "fuse: {}", line);
}

// Nodes that the kernel knows by number.
class NodeTable {
 public:
  explicit NodeTable(std::shared_ptr<Directory> root) : root_(std::move(root)) {}

  [[nodiscard]] fuse_ino_t number(const Node& node) const { return number(node.id()); }
  [[nodiscard]] fuse_ino_t number(std::uint64_t id) const {
    return id == root_->id() ? FUSE_ROOT_ID : id;
  }

  [[nodiscard]] std::shared_ptr<Node> find(fuse_ino_t number) const {
    if (number == FUSE_ROOT_ID) {
      return root_;
    }
    const std::shared_lock lock(mutex_);
    const auto it = known_.find(number);
    return it == known_.end() ? nullptr : it->second.node;
  }
  void remember(const std::shared_ptr<Node>& node) {
    const std::unique_lock lock(mutex_);
    Known& known = known_[node->id()];
    known.node = node;
    ++known.lookups;
  }
  void forget(fuse_ino_t number, std::uint64_t lookups) {
    std::shared_ptr<Node> last;  // goes after the lock
    const std::unique_lock lock(mutex_);
    const auto it = known_.find(number);
    if (it == known_.end()) {
      return;
    }
    if (it->second.lookups > lookups) {
      it->second.lookups -= lookups;
      return;
    }
    last = std::move(it->second.node);
    known_.erase(it);
  }

 private:
  struct Known {
    std::shared_ptr<Node> node;
    std::uint64_t lookups = 0;
  };
  const std::shared_ptr<Directory> root_;
  mutable std::shared_mutex mutex_;
  std::unordered_map<fuse_ino_t, Known> known_;
};

}  // namespace

class FuseServer::Impl {
 public:
  Impl(std::shared_ptr<Directory> root, const Options& options)
      : options_(options), nodes_(std::move(root)), passthrough_(options.passthrough) {}
  ~Impl();

  std::string start();

  void settle_data(Handle& target) {
    OpenNode* const node = target.node();
    if (node != nullptr && node->settled_data()) [[unlikely]]
      workers_->settle(node->ties());
  }
  void settle_errands(const Ties& ties) {
    errands_.wait();
    workers_->settle(ties);
  }
  void watch_closes(const char* path) { workers_->closes().add(mount_.root, path); }
  Result<std::shared_ptr<OpenNode>> identify(const Fd& fd);
  [[nodiscard]] bool owns(const Fd& fd) const;

  // Requests. Each replies exactly once, as its last deed: what throws before that is answered by
  // the caller.
  void init(fuse_conn_info* connection);
  void lookup(fuse_req_t request, fuse_ino_t parent, const char* name);
  void forget(fuse_req_t request, fuse_ino_t number, std::uint64_t lookups);
  void forget_multi(fuse_req_t request, std::size_t count, fuse_forget_data* forgets);
  void getattr(fuse_req_t request, fuse_ino_t number, fuse_file_info* file);
  void setattr(fuse_req_t request, fuse_ino_t number, struct stat* attributes, int to_set,
               fuse_file_info* file);
  void readlink(fuse_req_t request, fuse_ino_t number);
  void mknod(fuse_req_t request, fuse_ino_t, const char*, mode_t, dev_t) { refuse(request); }
  void mkdir(fuse_req_t request, fuse_ino_t, const char*, mode_t) { refuse(request); }
  void unlink(fuse_req_t request, fuse_ino_t, const char*) { refuse(request); }
  void symlink(fuse_req_t request, const char*, fuse_ino_t, const char*) { refuse(request); }
  void rename(fuse_req_t request, fuse_ino_t, const char*, fuse_ino_t, const char*, unsigned) {
    refuse(request);
  }
  void link(fuse_req_t request, fuse_ino_t, fuse_ino_t, const char*) { refuse(request); }
  void create(fuse_req_t request, fuse_ino_t, const char*, mode_t, fuse_file_info*) {
    fuse_reply_err(request, EACCES);
  }
  void open(fuse_req_t request, fuse_ino_t number, fuse_file_info* file);
  void read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* file);
  void write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size, off_t offset,
             fuse_file_info* file);
  void fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* file);
  void release(fuse_req_t request, fuse_ino_t, fuse_file_info* file);
  void opendir(fuse_req_t request, fuse_ino_t number, fuse_file_info* file);
  void readdir(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
               fuse_file_info* file);
  void releasedir(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
    release(request, number, file);
  }
  void statfs(fuse_req_t request, fuse_ino_t);
  void ioctl(fuse_req_t request, fuse_ino_t, unsigned command, void* arg, fuse_file_info* file,
             unsigned, const void*, std::size_t, std::size_t);

  ssize_t receive(void* buffer, std::size_t size);
  ssize_t send(iovec* pieces, int count);

  const Options options_;
  DetachedMount mount_;
  NodeTable nodes_;
  Passthrough passthrough_;
  Lanes asking_;  // what OpenNode::asks_back; needs workers to end
  Lanes slow_;    // what takes as long as clients like

 private:
  // sysfs knows no such operation.
  static void refuse(fuse_req_t request) { fuse_reply_err(request, EPERM); }
  static Handle& handle(const fuse_file_info* file) { return *reinterpret_cast<Handle*>(file->fh); }

  [[nodiscard]] struct stat stat_of(const Node& node) const;
  std::uint64_t keep(std::shared_ptr<Handle> handle);
  void drop(std::uint64_t handle);
  void reply_open(fuse_req_t request, std::shared_ptr<Handle> handle, std::uint32_t flags,
                  int backing);
  // A write that has a thread of its own. Who takes it from the table answers it.
  struct SlowWrite {
    fuse_req_t request = nullptr;
    pid_t client = 0;
    std::shared_ptr<Channel> channel;
  };
  void write_slowly(fuse_req_t request, Handle& target, std::span<const std::byte> bytes,
                    off_t offset);
  std::optional<SlowWrite> take_slow_write(std::uint64_t number);
  bool give_up_if_killed(std::uint64_t number);
  void slow_write_interrupted(std::uint64_t number);
  bool answer_ourselves(fuse_req_t request, unsigned command, Handle& handle);
  Result<std::shared_ptr<OpenNode>> ask(const Fd& fd, unsigned command);

  fuse_session* session_ = nullptr;
  std::unique_ptr<WorkerPool> workers_;
  bool init_seen_ = false;
  std::uint64_t init_unique_ = 0;
  Fd control_;  // the root, opened: takes the pills
  dev_t device_ = 0;

  std::mutex handles_mutex_;
  std::unordered_map<const Handle*, std::shared_ptr<Handle>> handles_;

  std::mutex slow_mutex_;
  std::condition_variable slow_taken_;
  std::uint64_t next_slow_ = 1;
  std::unordered_map<std::uint64_t, SlowWrite> slow_writes_;

  struct Question {
    std::shared_ptr<OpenNode> answer;
  };
  std::mutex question_mutex_;
  Question* question_ = nullptr;  // asked by self_ now

 public:
  SelfClient self_;
  Errands errands_;
};

namespace {

// Turns a member function into the C function that libfuse wants.
template <auto Member>
struct Entry;
template <typename Impl, typename... Args, void (Impl::*Member)(fuse_req_t, Args...)>
struct Entry<Member> {
  static void call(fuse_req_t request, Args... args) {
    try {
      (static_cast<Impl*>(fuse_req_userdata(request))->*Member)(request, args...);
    } catch (const std::bad_alloc&) {
      fuse_reply_err(request, ENOMEM);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a request failed: {}", error.what());
      fuse_reply_err(request, EIO);
    }
  }
};

}  // namespace

FuseServer::Impl::~Impl() {
  // The last questions need workers, the last workers need the pills' file. Only then are the
  // clients' files dropped, which is what slow requests wait for.
  asking_.join();
  if (workers_) {
    if (!control_) {
      mount_.root.reset();  // nothing to send pills with: the end of the mount ends the workers
    }
    workers_->stop([this] { return control_ && ask(control_, kPill).has_value(); });
  }
  decltype(handles_) handles;
  {
    const std::lock_guard lock(handles_mutex_);
    handles.swap(handles_);
  }
  handles.clear();
  slow_.join();
  passthrough_.stop();
  mount_.root.reset();
  workers_.reset();
  if (session_ != nullptr) {
    fuse_session_destroy(session_);  // closes the device, which ends the connection
  }
  control_.reset();
}

std::string FuseServer::Impl::start() {
  auto mount = mount_detached();
  if (!mount) {
    return mount.error();
  }
  mount_ = std::move(*mount);

  fuse_lowlevel_ops ops{};
  ops.init = [](void* self, fuse_conn_info* connection) {
    static_cast<Impl*>(self)->init(connection);
  };
  ops.lookup = Entry<&Impl::lookup>::call;
  ops.forget = Entry<&Impl::forget>::call;
  ops.forget_multi = Entry<&Impl::forget_multi>::call;
  ops.getattr = Entry<&Impl::getattr>::call;
  ops.setattr = Entry<&Impl::setattr>::call;
  ops.readlink = Entry<&Impl::readlink>::call;
  ops.mknod = Entry<&Impl::mknod>::call;
  ops.mkdir = Entry<&Impl::mkdir>::call;
  ops.unlink = Entry<&Impl::unlink>::call;
  ops.rmdir = Entry<&Impl::unlink>::call;
  ops.symlink = Entry<&Impl::symlink>::call;
  ops.rename = Entry<&Impl::rename>::call;
  ops.link = Entry<&Impl::link>::call;
  ops.create = Entry<&Impl::create>::call;
  ops.open = Entry<&Impl::open>::call;
  ops.read = Entry<&Impl::read>::call;
  ops.write = Entry<&Impl::write>::call;
  ops.fsync = Entry<&Impl::fsync>::call;
  ops.release = Entry<&Impl::release>::call;
  ops.opendir = Entry<&Impl::opendir>::call;
  ops.readdir = Entry<&Impl::readdir>::call;
  ops.releasedir = Entry<&Impl::releasedir>::call;
  ops.statfs = Entry<&Impl::statfs>::call;
  ops.ioctl = Entry<&Impl::ioctl>::call;

  fuse_set_log_func(log_fuse);
  std::array<char*, 1> argv{const_cast<char*>("uvfio")};
  fuse_args args{.argc = 1, .argv = argv.data(), .allocated = 0};
  session_ = fuse_session_new(&args, &ops, sizeof(ops), this);
  fuse_opt_free_args(&args);
  if (session_ == nullptr) {
    return "cannot make a FUSE session: out of memory?";
  }
  const fuse_custom_io io{
      .writev = [](int, iovec* pieces, int count,
                   void* self) { return static_cast<Impl*>(self)->send(pieces, count); },
      .read = [](int, void* buffer, std::size_t size,
                 void* self) { return static_cast<Impl*>(self)->receive(buffer, size); },
      .splice_receive = nullptr,
      .splice_send = nullptr,
  };
  const int device = mount_.device.get();
  if (const int error = fuse_session_custom_io(session_, &io, device); error != 0) {
    return fmt::format("cannot start the FUSE session: {}", strerror(-error));
  }
  mount_.device.release();  // the session's now
  workers_ = std::make_unique<WorkerPool>(session_, device, options_.max_threads);

  // INIT, on this thread: once it is over we know what the kernel can do.
  fuse_buf buffer{};
  const int size = fuse_session_receive_buf(session_, &buffer);
  if (size > 0) {
    fuse_session_process_buf(session_, &buffer);
  }
  free(buffer.mem);
  if (size <= 0 || !init_seen_ || fuse_session_exited(session_) != 0) {
    workers_.reset();
    return "the kernel did not accept the FUSE session; Linux 5.14 or later is needed";
  }
  if (options_.passthrough && !passthrough_.start(device)) {
    spdlog::info("nodes: regions cannot be mapped: FUSE passthrough needs Linux 6.9 and root");
  }
  if (!workers_->start()) {
    workers_.reset();
    return "cannot start a thread";
  }
  struct statx info {};
  if (!self_.start(mount_.root)) {
    return fmt::format("cannot start a thread with descriptors of its own: {}", strerror(errno));
  }
  workers_->set_own_thread(self_.thread());
  const auto turn = self_.turn();
  if (auto control = self_.open(".", O_RDONLY | O_DIRECTORY)) {
    control_ = std::move(*control);
  }
  if (!control_ ||
      ::statx(mount_.root.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &info) != 0) {
    return fmt::format("cannot open the FUSE file system: {}", strerror(errno));
  }
  device_ = makedev(info.stx_dev_major, info.stx_dev_minor);
  return {};
}

ssize_t FuseServer::Impl::receive(void* buffer, std::size_t size) {
  const ssize_t result = workers_->receive(buffer, size);
  if (!init_seen_ && result >= static_cast<ssize_t>(sizeof(fuse_in_header))) [[unlikely]] {
    fuse_in_header header{};
    std::memcpy(&header, buffer, sizeof(header));
    if (header.opcode == FUSE_INIT) {
      init_seen_ = true;
      init_unique_ = header.unique;
      passthrough_.see_init_request(buffer, static_cast<std::size_t>(result));
    }
  }
  return result;
}

ssize_t FuseServer::Impl::send(iovec* pieces, int count) {
  if (init_unique_ != 0) [[unlikely]] {
    init_unique_ = 0;
    passthrough_.patch_init_reply(pieces, count);
  }
  return workers_->send(pieces, count);
}

void FuseServer::Impl::init(fuse_conn_info* connection) {
  // Replies are small and come from our own buffers; nothing is cached, so nothing is to be
  // validated.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                             FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS |
                                             FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_AUTO_INVAL_DATA);
  // RELEASE is a background request: it must never wait for others of its kind.
  connection->max_background = 0xffff;
  connection->congestion_threshold = 0xffff;
}

struct stat FuseServer::Impl::stat_of(const Node& node) const {
  struct stat info {};
  info.st_ino = nodes_.number(node);
  info.st_mode = type_bits(node.kind()) | node.mode();
  info.st_uid = node.uid();
  info.st_gid = node.gid();
  info.st_nlink = 1;
  info.st_blksize = 4096;
  info.st_atim = info.st_mtim = info.st_ctim = node.born();
  switch (node.kind()) {
    case Kind::directory:
      info.st_nlink = 2 + static_cast<const Directory&>(node).subdirectories();
      break;
    case Kind::link:
      break;  // sysfs reports 0, too
    case Kind::attribute:
      info.st_size = 4096;
      break;
    case Kind::device:
      info.st_size = static_cast<off_t>(static_cast<const DeviceNode&>(node).traits().size);
      break;
  }
  return info;
}

void FuseServer::Impl::lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const std::shared_ptr<Node> directory = nodes_.find(parent);
  if (!directory || directory->kind() != Kind::directory) {
    fuse_reply_err(request, directory ? ENOTDIR : ENOENT);
    return;
  }
  const std::shared_ptr<Node> node = static_cast<const Directory&>(*directory).lookup(name);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry{};
  entry.ino = nodes_.number(*node);
  entry.attr = stat_of(*node);
  nodes_.remember(node);
  if (fuse_reply_entry(request, &entry) != 0) {
    nodes_.forget(entry.ino, 1);
  }
}

void FuseServer::Impl::forget(fuse_req_t request, fuse_ino_t number, std::uint64_t lookups) {
  nodes_.forget(number, lookups);
  fuse_reply_none(request);
}

void FuseServer::Impl::forget_multi(fuse_req_t request, std::size_t count,
                                    fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) {
    nodes_.forget(forgets[i].ino, forgets[i].nlookup);
  }
  fuse_reply_none(request);
}

void FuseServer::Impl::getattr(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  const struct stat info = stat_of(*node);
  fuse_reply_attr(request, &info, 0);
}

void FuseServer::Impl::setattr(fuse_req_t request, fuse_ino_t number, struct stat* attributes,
                               int to_set, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  // O_TRUNC does not come here (FUSE_CAP_ATOMIC_O_TRUNC), so this is truncate(2).
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && node->kind() == Kind::device) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) {
    node->set_mode(attributes->st_mode);
  }
  if ((to_set & FUSE_SET_ATTR_UID) != 0) {
    node->set_uid(attributes->st_uid);
  }
  if ((to_set & FUSE_SET_ATTR_GID) != 0) {
    node->set_gid(attributes->st_gid);
  }
  // Sizes of attributes, and times, are accepted and do nothing, as in sysfs.
  const struct stat info = stat_of(*node);
  fuse_reply_attr(request, &info, 0);
}

void FuseServer::Impl::readlink(fuse_req_t request, fuse_ino_t number) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node || node->kind() != Kind::link) {
    fuse_reply_err(request, node ? EINVAL : ENOENT);
    return;
  }
  fuse_reply_readlink(request, static_cast<const Link&>(*node).target().c_str());
}

std::uint64_t FuseServer::Impl::keep(std::shared_ptr<Handle> handle) {
  const Handle* const key = handle.get();
  const std::lock_guard lock(handles_mutex_);
  handles_.emplace(key, std::move(handle));
  return reinterpret_cast<std::uint64_t>(key);
}

void FuseServer::Impl::drop(std::uint64_t handle) {
  std::shared_ptr<Handle> last;  // goes after the lock
  const std::lock_guard lock(handles_mutex_);
  const auto it = handles_.find(reinterpret_cast<const Handle*>(handle));
  if (it != handles_.end()) {
    last = std::move(it->second);
    handles_.erase(it);
  }
}

void FuseServer::Impl::reply_open(fuse_req_t request, std::shared_ptr<Handle> handle,
                                  std::uint32_t flags, int backing) {
  const compat::OpenOut out{
      .fh = keep(std::move(handle)), .open_flags = flags, .backing_id = backing};
  // libfuse 3.14 cannot pass a backing id, so the reply is written as it goes over the wire.
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof(out)) != 0) {
    drop(out.fh);  // the client gave up: there will be no RELEASE
  }
}

void FuseServer::Impl::open(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  if (node->kind() == Kind::attribute) {
    // Root passes every permission check, but sysfs has one more
    // (KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK): somebody must be allowed to do it.
    const int access = file->flags & O_ACCMODE;
    const unsigned mode = node->mode();
    if (node->removed()) {
      fuse_reply_err(request, ENODEV);
    } else if ((access != O_RDONLY && (mode & 0222) == 0) ||
               (access != O_WRONLY && (mode & 0444) == 0)) {
      fuse_reply_err(request, EACCES);
    } else {
      reply_open(request,
                 std::make_shared<AttributeHandle>(std::static_pointer_cast<AttributeNode>(node)),
                 // Parallel: a second writer to `remove` must not wait for the first.
                 FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH, 0);
    }
    return;
  }
  if (node->kind() != Kind::device) {
    fuse_reply_err(request, node->kind() == Kind::directory ? EISDIR : ELOOP);
    return;
  }
  auto& device = static_cast<DeviceNode&>(*node);
  const pid_t thread = fuse_req_ctx(request)->pid;
  if (const Ties& ties = device.traits().ties; !ties.none()) {
    workers_->settle(ties);
  }
  auto opened = device.open(thread, file->flags);
  if (!opened) {
    fuse_reply_err(request, reply_value(opened.error()));
    return;
  }
  const DeviceNode::Traits& traits = device.traits();
  // Without NOFLUSH each close would be a request that even a dying process waits for: us, too,
  // while we hold a file of our own, with nobody left to answer.
  std::uint32_t flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
  if (traits.stream) {
    flags |= FOPEN_STREAM | FOPEN_NONSEEKABLE;
  }
  if (traits.backing != 0) {
    flags |= compat::kOpenPassthrough;
  }
  reply_open(request, std::make_shared<DeviceHandle>(std::move(*opened)), flags, traits.backing);
}

void FuseServer::Impl::read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                            fuse_file_info* file) {
  // Neither buffer is cleared first: only what the handler says that it filled is sent.
  std::array<std::byte, kSmall> small;
  std::unique_ptr<std::byte[]> large;
  std::byte* data = small.data();
  if (size > small.size()) {
    large = std::make_unique_for_overwrite<std::byte[]>(size);
    data = large.get();
  }
  Handle& target = handle(file);
  settle_data(target);
  const auto done = target.read(static_cast<std::uint64_t>(offset), {data, size});
  if (done) {
    fuse_reply_buf(request, reinterpret_cast<const char*>(data), std::min(*done, size));
  } else {
    fuse_reply_err(request, reply_value(done.error()));
  }
}

void FuseServer::Impl::write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size,
                             off_t offset, fuse_file_info* file) {
  const auto finish = [request, size](const Result<std::size_t>& done) {
    if (done) {
      fuse_reply_write(request, std::min(*done, size));
    } else {
      fuse_reply_err(request, reply_value(done.error()));
    }
  };
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  Handle& target = handle(file);
  settle_data(target);
  if (!target.slow_write()) [[likely]] {
    finish(target.write(static_cast<std::uint64_t>(offset), bytes));
    return;
  }
  write_slowly(request, target, bytes, offset);
}

void FuseServer::Impl::write_slowly(fuse_req_t request, Handle& target,
                                    std::span<const std::byte> bytes, off_t offset) {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(slow_mutex_);
    number = next_slow_++;
    slow_writes_[number] = {
        .request = request, .client = fuse_req_ctx(request)->pid, .channel = workers_->channel()};
    // May call back at once; under the lock, so that nobody answers, and thereby frees, the request
    // meanwhile.
    fuse_req_interrupt_func(
        request,
        [](fuse_req_t interrupted, void* which) {
          static_cast<Impl*>(fuse_req_userdata(interrupted))
              ->slow_write_interrupted(reinterpret_cast<std::uint64_t>(which));
        },
        reinterpret_cast<void*>(number));
  }
  Lanes::Task task = [this, number, handle = target.shared_from_this(), offset,
                      copy = std::vector<std::byte>(bytes.begin(), bytes.end())]() mutable {
    Result<std::size_t> done = fail(EIO);
    try {
      done = handle->write(static_cast<std::uint64_t>(offset), copy);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a write failed: {}", error.what());
    }
    handle.reset();
    const auto slow = take_slow_write(number);
    if (!slow) {
      return;
    }
    const WorkerPool::Borrow borrow(slow->channel);
    if (done) {
      fuse_reply_write(slow->request, std::min(*done, copy.size()));
    } else {
      fuse_reply_err(slow->request, reply_value(done.error()));
    }
  };
  if (!slow_.start(std::move(task))) {
    if (const auto slow = take_slow_write(number)) {
      fuse_reply_err(slow->request, EAGAIN);
    }
  }
}

std::optional<FuseServer::Impl::SlowWrite> FuseServer::Impl::take_slow_write(std::uint64_t number) {
  const std::lock_guard lock(slow_mutex_);
  const auto node = slow_writes_.extract(number);
  slow_taken_.notify_all();
  return node ? std::optional(std::move(node.mapped())) : std::nullopt;
}

// A client that is killed does not get its answer any more, but the kernel keeps it until it has
// one - and with it its files, for which the write may be waiting. So it gets one, and the write
// goes on without it. True: it is answered, now or before.
bool FuseServer::Impl::give_up_if_killed(std::uint64_t number) {
  pid_t client = 0;
  {
    const std::lock_guard lock(slow_mutex_);
    const auto it = slow_writes_.find(number);
    if (it == slow_writes_.end()) {
      return true;
    }
    client = it->second.client;
  }
  if (!memory::thread_is_killed(client)) {
    return false;
  }
  if (const auto slow = take_slow_write(number)) {
    const WorkerPool::Borrow borrow(slow->channel);
    fuse_reply_err(slow->request, EINTR);
  }
  return true;
}

// Some signal has come to the client. The kernel says so only once: whether a deadly one follows a
// harmless one has to be looked at from time to time. Called with locks of libfuse held.
void FuseServer::Impl::slow_write_interrupted(std::uint64_t number) {
  static_cast<void>(slow_.start([this, number] {
    constexpr auto kPeriod = std::chrono::milliseconds(100);
    while (!give_up_if_killed(number)) {
      std::unique_lock lock(slow_mutex_);
      slow_taken_.wait_for(lock, kPeriod, [&] { return !slow_writes_.contains(number); });
    }
  }));
}

// The VFS has it that files without an fsync method fail, which VFIO's are.
void FuseServer::Impl::fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* file) {
  fuse_reply_err(request, handle(file).node() != nullptr ? EINVAL : 0);
}

void FuseServer::Impl::release(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  const OpenNode* node = handle(file).node();
  WorkerPool::releases(node != nullptr ? node->ties() : Ties{});
  drop(file->fh);
  fuse_reply_err(request, 0);
}

void FuseServer::Impl::opendir(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node || node->kind() != Kind::directory) {
    fuse_reply_err(request, node ? ENOTDIR : ENOENT);
    return;
  }
  reply_open(request, std::make_shared<ListingHandle>(static_cast<const Directory&>(*node)), 0, 0);
}

void FuseServer::Impl::readdir(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                               fuse_file_info* file) {
  const auto& entries = static_cast<const ListingHandle&>(handle(file)).entries();
  std::vector<char> buffer(std::min<std::size_t>(size, 64 << 10));
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(offset); i < entries.size(); ++i) {
    struct stat info {};
    info.st_ino = nodes_.number(entries[i].id);
    info.st_mode = type_bits(entries[i].kind);
    const std::size_t needed =
        fuse_add_direntry(request, buffer.data() + used, buffer.size() - used,
                          entries[i].name.c_str(), &info, static_cast<off_t>(i + 1));
    if (needed > buffer.size() - used) {
      break;
    }
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void FuseServer::Impl::statfs(fuse_req_t request, fuse_ino_t) {
  struct statvfs info {};
  info.f_bsize = info.f_frsize = 4096;
  info.f_namemax = 255;
  fuse_reply_statfs(request, &info);
}

bool FuseServer::Impl::answer_ourselves(fuse_req_t request, unsigned command, Handle& handle) {
  {
    const std::lock_guard lock(question_mutex_);
    if (fuse_req_ctx(request)->pid != self_.thread() || question_ == nullptr) {
      return false;
    }
    question_->answer = handle.share_node();
  }
  if (command == kPill) {
    WorkerPool::take_pill();
  }
  fuse_reply_ioctl(request, 0, nullptr, 0);
  return true;
}

void FuseServer::Impl::ioctl(fuse_req_t request, fuse_ino_t, unsigned command, void* arg,
                             fuse_file_info* file, unsigned, const void*, std::size_t,
                             std::size_t) {
  Handle& target = handle(file);
  if ((command == kIdentify || command == kPill) && answer_ourselves(request, command, target))
      [[unlikely]] {
    return;
  }
  OpenNode* const node = target.node();
  if (node == nullptr) {
    fuse_reply_err(request, ENOTTY);
    return;
  }
  if (node->settled(command)) [[unlikely]] {
    workers_->settle(node->ties());
  }
  const pid_t thread = fuse_req_ctx(request)->pid;
  const auto number = reinterpret_cast<std::uint64_t>(arg);
  if (!node->asks_back(command)) [[likely]] {
    reply(request, node->ioctl(thread, command, number));
    return;
  }
  // The reply lets the client run on, and what it closes then has to be closed: so nothing of its
  // file may be held any longer at that moment, not even by the task.
  Lanes::Task task = [request, thread, command, number, handle = target.shared_from_this(),
                      channel = workers_->channel()]() mutable {
    const WorkerPool::Borrow borrow(channel);
    Result<int> result = fail(EIO);
    try {
      result = handle->node()->ioctl(thread, command, number);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a request failed: {}", error.what());
    }
    handle.reset();
    reply(request, result);
  };
  if (!asking_.start(std::move(task))) {
    fuse_reply_err(request, EAGAIN);
  }
}

Result<std::shared_ptr<OpenNode>> FuseServer::Impl::identify(const Fd& fd) {
  if (!owns(fd)) {
    return fail(fcntl(fd.get(), F_GETFD) < 0 ? EBADF : EBADFD);
  }
  auto answer = ask(fd, kIdentify);
  if (!answer) {
    return fail(answer.error() == Errno{EBADF} ? EBADF : EBADFD);
  }
  if (!*answer) {
    return fail(EBADFD);
  }
  // The asker wants to know things as they are after what its client has closed before.
  workers_->settle((*answer)->ties());
  return answer;
}

// Makes a private ioctl on one of our own files: what is open behind it.
Result<std::shared_ptr<OpenNode>> FuseServer::Impl::ask(const Fd& fd, unsigned command) {
  const auto turn = self_.turn();
  Question question;
  {
    const std::lock_guard lock(question_mutex_);
    question_ = &question;
  }
  const auto asked = self_.ioctl(fd, command);
  const std::lock_guard lock(question_mutex_);
  question_ = nullptr;
  if (!asked) {
    return std::unexpected(asked.error());
  }
  return question.answer;
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

const Fd& FuseServer::root() const { return impl_->mount_.root; }
Passthrough& FuseServer::passthrough() { return impl_->passthrough_; }
SelfClient& FuseServer::self() { return impl_->self_; }
Errands& FuseServer::errands() { return impl_->errands_; }
void FuseServer::settle_errands(const Ties& ties) { impl_->settle_errands(ties); }
Result<std::shared_ptr<OpenNode>> FuseServer::identify(const Fd& fd) { return impl_->identify(fd); }
bool FuseServer::owns(const Fd& fd) const { return impl_->owns(fd); }
void FuseServer::watch_closes(const char* path) { impl_->watch_closes(path); }

}  // namespace uvfio::nodes
