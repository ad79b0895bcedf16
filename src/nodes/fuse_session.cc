#include "nodes/fuse_session.h"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "nodes/fuse_operations.h"

namespace uvfio::nodes {
namespace {

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

}  // namespace

std::string FuseSession::start(FuseOperations& operations) {
  operations_ = &operations;
  auto mount = mount_detached();
  if (!mount) {
    return mount.error();
  }
  mount_ = std::move(*mount);
  const int device = mount_.device.get();
  if (std::string problem = open(); !problem.empty()) {
    return problem;
  }
  // Once INIT is over we know what the kernel can do.
  if (!negotiate()) {
    workers_.reset();
    return "the kernel did not accept the FUSE session; Linux 5.14 or later is needed";
  }
  if (passthrough_wanted_ && !passthrough_.start(device)) {
    spdlog::info("nodes: regions cannot be mapped: FUSE passthrough needs Linux 6.9 and root");
  }
  if (!workers_->start()) {
    workers_.reset();
    return "cannot start a thread";
  }
  return {};
}

std::string FuseSession::open() {
  fuse_lowlevel_ops ops = FuseOperations::table();
  ops.init = [](void*, fuse_conn_info* connection) { init(connection); };

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
                   void* self) { return static_cast<FuseSession*>(self)->send(pieces, count); },
      .read = [](int, void* buffer, std::size_t size,
                 void* self) { return static_cast<FuseSession*>(self)->receive(buffer, size); },
      .splice_receive = nullptr,
      .splice_send = nullptr,
  };
  const int device = mount_.device.get();
  if (const int error = fuse_session_custom_io(session_, &io, device); error != 0) {
    return fmt::format("cannot start the FUSE session: {}", strerror(-error));
  }
  mount_.device.release();  // the session's now
  workers_ = std::make_unique<WorkerPool>(session_, device, max_threads_);
  return {};
}

bool FuseSession::negotiate() {
  fuse_buf buffer{};
  const int size = fuse_session_receive_buf(session_, &buffer);
  if (size > 0) {
    fuse_session_process_buf(session_, &buffer);
  }
  free(buffer.mem);
  return size > 0 && init_seen_ && fuse_session_exited(session_) == 0;
}

void FuseSession::init(fuse_conn_info* connection) {
  // Replies are small and come from our own buffers; nothing is cached, so nothing is to be
  // validated.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                             FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS |
                                             FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_AUTO_INVAL_DATA);
  // RELEASE is a background request: it must never wait for others of its kind.
  connection->max_background = 0xffff;
  connection->congestion_threshold = 0xffff;
}

ssize_t FuseSession::receive(void* buffer, std::size_t size) {
  const ssize_t result = workers_->receive(buffer, size);
  if (!init_seen_ && result >= static_cast<ssize_t>(sizeof(fuse_in_header))) [[unlikely]] {
    fuse_in_header header{};
    std::memcpy(&header, buffer, sizeof(header));
    if (header.opcode == FUSE_INIT) {
      init_seen_ = true;
      init_unanswered_ = true;
      passthrough_.see_init_request(buffer, static_cast<std::size_t>(result));
    }
  }
  return result;
}

ssize_t FuseSession::send(iovec* pieces, int count) {
  if (init_unanswered_) [[unlikely]] {
    init_unanswered_ = false;
    passthrough_.patch_init_reply(pieces, count);
  }
  return workers_->send(pieces, count);
}

void FuseSession::stop_workers(const std::function<bool()>& send_pill) {
  if (!workers_) {
    return;
  }
  if (!send_pill) {
    mount_.root.reset();  // the end of the mount ends the workers
  }
  workers_->stop([&] { return send_pill && send_pill(); });
}

void FuseSession::close() {
  passthrough_.stop();
  mount_.root.reset();
  workers_.reset();
  if (session_ != nullptr) {
    fuse_session_destroy(session_);  // closes the device, which ends the connection
    session_ = nullptr;
  }
}

}  // namespace uvfio::nodes
