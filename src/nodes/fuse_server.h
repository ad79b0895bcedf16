// Shows a tree of nodes to other processes, through FUSE.
#pragma once

#include <sys/types.h>

#include <expected>
#include <memory>
#include <string>

#include "nodes/errands.h"
#include "nodes/passthrough.h"
#include "nodes/self_client.h"
#include "nodes/tree.h"
#include "uvfio/fd.h"

namespace uvfio::nodes {

// One detached FUSE mount of one tree, with the threads that serve it. Thread-safe. Of the nodes,
// only those of kind `device` are given the client's ioctls.
class FuseServer {
 public:
  struct Options {
    bool passthrough = true;
    unsigned max_threads = 64;
  };

  // Mounts and serves. The error says what is missing and what to do about it.
  [[nodiscard]] static std::expected<std::unique_ptr<FuseServer>, std::string> create(
      std::shared_ptr<Directory> root, const Options& options);
  // Ends all threads and drops all open files; clients get ENOTCONN.
  ~FuseServer();
  FuseServer(const FuseServer&) = delete;

  // Directory of the detached mount (O_PATH).
  [[nodiscard]] const Fd& root() const;
  // Backing files for DeviceNode::Traits::backing.
  [[nodiscard]] Passthrough& passthrough();

  // For requests of this process to its own files: no other thread may make any.
  [[nodiscard]] SelfClient& self();

  // Work that holds files of clients; see errands.h.
  [[nodiscard]] Errands& errands();
  // For the opener of a node that is busy: on return, what clients have closed of what shares
  // `ties` is closed, and what was done for those that were killed is over.
  void settle_errands(const Ties& ties);

  // Says that the device nodes in directory `path` are closed by clients: what depends on closes is
  // quick as long as nothing there was. Once for each such directory, before the first client.
  void watch_closes(const char* path);

  // The open behind `fd`, a descriptor of this process. EBADF: not open, or O_PATH. EBADFD: not a
  // device node of ours. Not for threads that serve requests, except those whose OpenNode
  // asks_back.
  [[nodiscard]] Result<std::shared_ptr<OpenNode>> identify(const Fd& fd);
  // Is it a file of this mount? Asks the kernel only, so any thread may.
  [[nodiscard]] bool owns(const Fd& fd) const;

 private:
  class Impl;
  explicit FuseServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace uvfio::nodes
