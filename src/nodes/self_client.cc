#include "nodes/self_client.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <system_error>

#include "base/sanitizers.h"

namespace uvfio::nodes {
namespace {

// One datagram with at most one descriptor. False: the other end has gone.
bool send_message(int socket, const void* data, std::size_t size, int fd) {
  iovec part{.iov_base = const_cast<void*>(data), .iov_len = size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

bool receive_message(int socket, void* data, std::size_t size, Fd& fd) {
  iovec part{.iov_base = data, .iov_len = size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t received = 0;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (const cmsghdr* header = received < 0 ? nullptr : CMSG_FIRSTHDR(&message);
      header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(header), sizeof number);
    fd.reset(number);
  }
  return received == static_cast<ssize_t>(size);
}

// ThreadSanitizer takes equal numbers in two tables for one descriptor: there the table stays
// common.
#ifdef UVFIO_TSAN
constexpr bool kOwnTable = false;
#else
constexpr bool kOwnTable = true;
#endif

// Takes this thread a table of descriptors with only these two in it.
bool leave_descriptors(int one, int other) {
  if (!kOwnTable) return true;
  if (unshare(CLONE_FILES) != 0) return false;
  const auto low = static_cast<unsigned>(std::min(one, other));
  const auto high = static_cast<unsigned>(std::max(one, other));
  if (low > 0) close_range(0, low - 1, 0);
  if (high - low > 1) close_range(low + 1, high - 1, 0);
  close_range(high + 1, UINT_MAX, 0);
  return true;
}

}  // namespace

struct SelfClient::Request {
  bool open = false;      // else ioctl on the descriptor that comes along
  unsigned argument = 0;  // flags, or command
  std::array<char, 64> path{};
};

struct SelfClient::Answer {
  int error = 0;
};

void SelfClient::stop() {
  socket_.reset();
  if (thread_.joinable()) thread_.join();
}

bool SelfClient::start(const Fd& root) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) return false;
  socket_.reset(ends[0]);
  Fd theirs(ends[1]);
  auto their_root = root.duplicate();
  if (!their_root) return false;
  try {
    thread_ = std::thread([this, root_number = their_root->get(), socket = theirs.get()] {
      run(root_number, socket);
    });
  } catch (const std::system_error&) {
    return false;
  }
  // Its first word says whether it could leave our table, and who it is.
  Fd none;
  const bool started =
      receive_message(socket_.get(), &thread_id_, sizeof thread_id_, none) && thread_id_ != 0;
  // The thread has both in its table, and closes them there; in ours they go now.
  if (!kOwnTable) {
    theirs.release();
    their_root->release();
  }
  return started;
}

void SelfClient::run(int root, int socket) {
  const bool alone = leave_descriptors(root, socket);
  const pid_t self = alone ? gettid() : 0;
  if (!send_message(socket, &self, sizeof self, -1) || !alone) return;
  Request request;
  Fd fd;
  while (receive_message(socket, &request, sizeof request, fd)) {
    Answer answer;
    if (request.open) {
      fd.reset(openat(root, request.path.data(), static_cast<int>(request.argument) | O_CLOEXEC));
      answer.error = fd ? 0 : errno;
    } else {
      answer.error = ::ioctl(fd.get(), request.argument, 0) == 0 ? 0 : errno;
    }
    // The second message says that ours is closed: what the asker's client closes next is to be the
    // last one.
    const bool sent = send_message(socket, &answer, sizeof answer, request.open ? fd.get() : -1);
    fd.reset();
    if (!sent || !send_message(socket, &answer, sizeof answer, -1)) break;
  }
  close(root);
  close(socket);
}

Result<Fd> SelfClient::ask(const Request& request, const Fd* fd) {
  if (!send_message(socket_.get(), &request, sizeof request, fd != nullptr ? fd->get() : -1)) {
    return fail(EIO);
  }
  Answer answer;
  Fd opened;
  Fd none;
  if (!receive_message(socket_.get(), &answer, sizeof answer, opened) ||
      !receive_message(socket_.get(), &answer, sizeof answer, none)) {
    return fail(EIO);
  }
  if (answer.error != 0) return fail(answer.error);
  // What does not fit into our table is dropped on the way.
  if (request.open && !opened) return fail(EMFILE);
  return opened;
}

Result<Fd> SelfClient::open(const std::string& path, int flags) {
  Request request{.open = true, .argument = static_cast<unsigned>(flags), .path = {}};
  if (path.size() >= request.path.size()) return fail(ENAMETOOLONG);
  std::ranges::copy(path, request.path.begin());
  return ask(request, nullptr);
}

Status SelfClient::ioctl(const Fd& fd, unsigned command) {
  auto answer = ask({.open = false, .argument = command, .path = {}}, &fd);
  if (!answer) return std::unexpected(answer.error());
  return {};
}

}  // namespace uvfio::nodes
