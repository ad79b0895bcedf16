#include "nodes/fuse_operations.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <exception>
#include <new>

namespace uvfio::nodes {
namespace {

// Turns a member function into the C function that libfuse wants.
template <auto Member>
struct Entry;
template <typename... Args, void (FuseOperations::*Member)(fuse_req_t, Args...)>
struct Entry<Member> {
  static void call(fuse_req_t request, Args... args) {
    try {
      (FuseOperations::of(request).*Member)(request, args...);
    } catch (const std::bad_alloc&) {
      fuse_reply_err(request, ENOMEM);
    } catch (const std::exception& error) {
      spdlog::error("nodes: a request failed: {}", error.what());
      fuse_reply_err(request, EIO);
    }
  }
};

}  // namespace

FuseOperations& FuseOperations::of(fuse_req_t request) {
  return static_cast<FuseSession*>(fuse_req_userdata(request))->operations();
}

fuse_lowlevel_ops FuseOperations::table() {
  fuse_lowlevel_ops ops{};
  ops.lookup = Entry<&FuseOperations::lookup>::call;
  ops.forget = Entry<&FuseOperations::forget>::call;
  ops.forget_multi = Entry<&FuseOperations::forget_multi>::call;
  ops.getattr = Entry<&FuseOperations::getattr>::call;
  ops.setattr = Entry<&FuseOperations::setattr>::call;
  ops.readlink = Entry<&FuseOperations::readlink>::call;
  ops.mknod = Entry<&FuseOperations::mknod>::call;
  ops.mkdir = Entry<&FuseOperations::mkdir>::call;
  ops.unlink = Entry<&FuseOperations::unlink>::call;
  ops.rmdir = Entry<&FuseOperations::unlink>::call;
  ops.symlink = Entry<&FuseOperations::symlink>::call;
  ops.rename = Entry<&FuseOperations::rename>::call;
  ops.link = Entry<&FuseOperations::link>::call;
  ops.create = Entry<&FuseOperations::create>::call;
  ops.open = Entry<&FuseOperations::open>::call;
  ops.read = Entry<&FuseOperations::read>::call;
  ops.write = Entry<&FuseOperations::write>::call;
  ops.fsync = Entry<&FuseOperations::fsync>::call;
  ops.release = Entry<&FuseOperations::release>::call;
  ops.opendir = Entry<&FuseOperations::opendir>::call;
  ops.readdir = Entry<&FuseOperations::readdir>::call;
  ops.releasedir = Entry<&FuseOperations::releasedir>::call;
  ops.statfs = Entry<&FuseOperations::statfs>::call;
  ops.ioctl = Entry<&FuseOperations::ioctl>::call;
  return ops;
}

void FuseOperations::drop_files() {
  handles_.clear();
  slow_writes_.join();  // they wait for clients' files to be closed
}

}  // namespace uvfio::nodes
