// What the kernel asks a file system: libfuse's low-level operations, on a tree of nodes.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>

#include "nodes/fuse_session.h"
#include "nodes/handle.h"
#include "nodes/lanes.h"
#include "nodes/node_table.h"
#include "nodes/private_ioctls.h"
#include "nodes/slow_writes.h"
#include "nodes/tree.h"

namespace uvfio::nodes {

// Thread-safe.
class FuseOperations {
 public:
  FuseOperations(std::shared_ptr<Directory> root, FuseSession& session,
                 PrivateIoctls& private_ioctls)
      : session_(session), private_ioctls_(private_ioctls), nodes_(std::move(root)) {}

  // All but INIT, for a session whose user data is a FuseSession.
  [[nodiscard]] static fuse_lowlevel_ops table();
  // Those that `request` was made for.
  [[nodiscard]] static FuseOperations& of(fuse_req_t request);
  [[nodiscard]] SlowWrites& slow_writes() { return slow_writes_; }

  // The end: the first needs workers to answer, the second must come after them.
  void finish_asking() { asking_.join(); }
  void drop_files();

 private:
  // Each replies exactly once, as its last deed: what throws before that is answered by the caller.

  // node_operations.cc
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
  void opendir(fuse_req_t request, fuse_ino_t number, fuse_file_info* file);
  void readdir(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
               fuse_file_info* file);
  void releasedir(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
    release(request, number, file);
  }
  void statfs(fuse_req_t request, fuse_ino_t);

  // file_operations.cc
  void open(fuse_req_t request, fuse_ino_t number, fuse_file_info* file);
  void read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* file);
  void write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size, off_t offset,
             fuse_file_info* file);
  void fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* file);
  void release(fuse_req_t request, fuse_ino_t, fuse_file_info* file);
  void ioctl(fuse_req_t request, fuse_ino_t, unsigned command, void* arg, fuse_file_info* file,
             unsigned, const void*, std::size_t, std::size_t);

  // sysfs knows no such operation.
  static void refuse(fuse_req_t request) { fuse_reply_err(request, EPERM); }
  static Handle& handle(const fuse_file_info* file) { return *reinterpret_cast<Handle*>(file->fh); }

  [[nodiscard]] struct stat stat_of(const Node& node) const;
  void open_attribute(fuse_req_t request, std::shared_ptr<AttributeNode> node, int flags);
  void open_device(fuse_req_t request, DeviceNode& node, int flags);
  void reply_open(fuse_req_t request, std::shared_ptr<Handle> handle, std::uint32_t flags,
                  int backing);
  void settle_data(Handle& target);

  FuseSession& session_;
  PrivateIoctls& private_ioctls_;
  NodeTable nodes_;
  HandleTable handles_;
  Lanes asking_;  // what OpenNode::asks_back; needs workers to end
  SlowWrites slow_writes_;
};

}  // namespace uvfio::nodes
