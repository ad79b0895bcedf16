// Open files and their I/O.
#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <span>
#include <utility>

#include "nodes/fuse_compat.h"
#include "nodes/fuse_operations.h"
#include "nodes/fuse_replies.h"
#include "nodes/workers.h"

namespace uvfio::nodes {
namespace {

// Requests up to this size are served from the stack.
constexpr std::size_t kSmall = 8192;

}  // namespace

void FuseOperations::reply_open(fuse_req_t request, std::shared_ptr<Handle> handle,
                                std::uint32_t flags, int backing) {
  const compat::OpenOut out{
      .fh = handles_.keep(std::move(handle)), .open_flags = flags, .backing_id = backing};
  // libfuse 3.14 cannot pass a backing id, so the reply is written as it goes over the wire.
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof(out)) != 0) {
    handles_.drop(out.fh);  // the client gave up: there will be no RELEASE
  }
}

void FuseOperations::open(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  switch (node->kind()) {
    case Kind::attribute:
      open_attribute(request, std::static_pointer_cast<AttributeNode>(node), file->flags);
      break;
    case Kind::device:
      open_device(request, static_cast<DeviceNode&>(*node), file->flags);
      break;
    case Kind::directory:
      fuse_reply_err(request, EISDIR);
      break;
    case Kind::link:
      fuse_reply_err(request, ELOOP);
      break;
  }
}

void FuseOperations::open_attribute(fuse_req_t request, std::shared_ptr<AttributeNode> node,
                                    int flags) {
  // Root passes every permission check, but sysfs has one more
  // (KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK): somebody must be allowed to do it.
  const int access = flags & O_ACCMODE;
  const unsigned mode = node->mode();
  if (node->removed()) {
    fuse_reply_err(request, ENODEV);
  } else if ((access != O_RDONLY && (mode & 0222) == 0) ||
             (access != O_WRONLY && (mode & 0444) == 0)) {
    fuse_reply_err(request, EACCES);
  } else {
    reply_open(request, std::make_shared<AttributeHandle>(std::move(node)),
               // Parallel: a second writer to `remove` must not wait for the first.
               FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH, 0);
  }
}

void FuseOperations::open_device(fuse_req_t request, DeviceNode& node, int flags) {
  const DeviceNode::Traits& traits = node.traits();
  if (!traits.ties.none()) {
    session_.workers().settle(traits.ties);
  }
  auto opened = node.open(fuse_req_ctx(request)->pid, flags);
  if (!opened) {
    fuse_reply_err(request, reply_value(opened.error()));
    return;
  }
  // Without NOFLUSH each close would be a request that even a dying process waits for: us, too,
  // while we hold a file of our own, with nobody left to answer.
  std::uint32_t open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
  if (traits.stream) {
    open_flags |= FOPEN_STREAM | FOPEN_NONSEEKABLE;
  }
  if (traits.backing != 0) {
    open_flags |= compat::kOpenPassthrough;
  }
  reply_open(request, std::make_shared<DeviceHandle>(std::move(*opened)), open_flags,
             traits.backing);
}

void FuseOperations::settle_data(Handle& target) {
  const OpenNode* const node = target.node();
  if (node != nullptr && node->settled_data()) [[unlikely]] {
    session_.workers().settle(node->ties());
  }
}

void FuseOperations::read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
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

void FuseOperations::write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size,
                           off_t offset, fuse_file_info* file) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  Handle& target = handle(file);
  settle_data(target);
  if (!target.slow_write()) [[likely]] {
    reply_write(request, target.write(static_cast<std::uint64_t>(offset), bytes), size);
    return;
  }
  slow_writes_.start(request, target, bytes, offset, session_.workers().channel());
}

// The VFS has it that files without an fsync method fail, which VFIO's are.
void FuseOperations::fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* file) {
  fuse_reply_err(request, handle(file).node() != nullptr ? EINVAL : 0);
}

void FuseOperations::release(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  const OpenNode* node = handle(file).node();
  WorkerPool::releases(node != nullptr ? node->ties() : Ties{});
  handles_.drop(file->fh);
  fuse_reply_err(request, 0);
}

void FuseOperations::ioctl(fuse_req_t request, fuse_ino_t, unsigned command, void* arg,
                           fuse_file_info* file, unsigned, const void*, std::size_t, std::size_t) {
  Handle& target = handle(file);
  if ((command == kIdentify || command == kPill) &&
      private_ioctls_.answer(request, command, target)) [[unlikely]] {
    return;
  }
  OpenNode* const node = target.node();
  if (node == nullptr) {
    fuse_reply_err(request, ENOTTY);
    return;
  }
  if (node->settled(command)) [[unlikely]] {
    session_.workers().settle(node->ties());
  }
  const pid_t thread = fuse_req_ctx(request)->pid;
  const auto number = reinterpret_cast<std::uint64_t>(arg);
  if (!node->asks_back(command)) [[likely]] {
    reply_ioctl(request, node->ioctl(thread, command, number));
    return;
  }
  // The reply lets the client run on, and what it closes then has to be closed: so nothing of its
  // file may be held any longer at that moment, not even by the task.
  Lanes::Task task = [request, thread, command, number, handle = target.shared_from_this(),
                      channel = session_.workers().channel()]() mutable {
    const WorkerPool::Borrow borrow(channel);
    Result<int> result = fail(EIO);
    try {
      result = handle->node()->ioctl(thread, command, number);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a request failed: {}", error.what());
    }
    handle.reset();
    reply_ioctl(request, result);
  };
  if (!asking_.start(std::move(task))) {
    fuse_reply_err(request, EAGAIN);
  }
}

}  // namespace uvfio::nodes
