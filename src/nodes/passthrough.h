// FUSE passthrough for mmap (Linux 6.9): a file of ours shows the pages of a memfd, live.
// libfuse 3.14 does not know it, so the two places where the protocol has it are handled here.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::nodes {

class Passthrough;

// A file that the kernel may map in place of ours. One id serves all opens of one node; the node's
// owner keeps it as long as the node is there.
class BackingId {
 public:
  BackingId() = default;
  BackingId(BackingId&& other) noexcept
      : passthrough_(std::exchange(other.passthrough_, nullptr)),
        id_(std::exchange(other.id_, 0)) {}
  BackingId& operator=(BackingId&&) = delete;
  ~BackingId();
  // 0: none.
  [[nodiscard]] int get() const { return id_; }

 private:
  friend class Passthrough;
  BackingId(Passthrough* passthrough, int id) : passthrough_(passthrough), id_(id) {}
  Passthrough* passthrough_ = nullptr;
  int id_ = 0;
};

// Passthrough on one FUSE connection.
class Passthrough {
 public:
  explicit Passthrough(bool wanted) : wanted_(wanted) {}

  // To be shown the INIT request and to be given the chance to change its reply (header and
  // fuse_init_out, a piece each: so libfuse sends it).
  void see_init_request(const void* request, std::size_t size);
  void patch_init_reply(iovec* pieces, int count) const;

  // Once INIT is over: can backing files be registered? `device` is the connection's /dev/fuse.
  bool start(int device);
  // The connection is about to end: ids that are still held die with it.
  void stop() { device_ = -1; }
  [[nodiscard]] bool available() const { return device_ >= 0; }
  // EOPNOTSUPP: not available.
  [[nodiscard]] Result<BackingId> open(const Fd& file);

 private:
  friend class BackingId;
  bool wanted_;
  bool offered_ = false;
  int device_ = -1;
};

}  // namespace uvfio::nodes
