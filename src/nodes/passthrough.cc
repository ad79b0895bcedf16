#include "nodes/passthrough.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "nodes/fuse_compat.h"

namespace uvfio::nodes {
namespace {

// The length of the longest fuse_init_in that we look at (7.36 and later).
struct InitIn {
  std::uint32_t major, minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
  std::uint32_t flags2;
  std::uint32_t unused[11];
};
static_assert(sizeof(InitIn) == sizeof(fuse_init_in));

}  // namespace

BackingId::~BackingId() {
  if (passthrough_ != nullptr && passthrough_->available()) {
    const auto id = static_cast<std::uint32_t>(id_);
    ::ioctl(passthrough_->device_, compat::kBackingClose, &id);
  }
}

void Passthrough::see_init_request(const void* request, std::size_t size) {
  InitIn init{};
  if (size < sizeof(fuse_in_header) + offsetof(InitIn, unused)) {
    return;
  }
  std::memcpy(&init, static_cast<const std::byte*>(request) + sizeof(fuse_in_header),
              std::min(sizeof(init), size - sizeof(fuse_in_header)));
  offered_ = init.minor >= compat::kPassthroughMinor && (init.flags & FUSE_INIT_EXT) != 0 &&
             (init.flags2 & compat::kInitPassthrough2) != 0;
}

void Passthrough::patch_init_reply(iovec* pieces, int count) const {
  if (!wanted_ || !offered_ || count != 2 || pieces[0].iov_len != sizeof(fuse_out_header) ||
      pieces[1].iov_len != sizeof(compat::InitOut)) {
    return;
  }
  fuse_out_header header{};
  std::memcpy(&header, pieces[0].iov_base, sizeof(header));
  if (header.error != 0) {
    return;
  }
  compat::InitOut reply{};
  std::memcpy(&reply, pieces[1].iov_base, sizeof(reply));
  reply.minor = std::max(reply.minor, compat::kPassthroughMinor);
  reply.flags |= FUSE_INIT_EXT;
  reply.flags2 |= compat::kInitPassthrough2;
  reply.max_stack_depth = 1;
  std::memcpy(pieces[1].iov_base, &reply, sizeof(reply));
}

bool Passthrough::start(int device) {
  if (!wanted_ || !offered_) {
    return false;
  }
  // Whether we have the right to do it (CAP_SYS_ADMIN in the initial namespace) shows only in
  // trying.
  const Fd probe(memfd_create("uvfio-passthrough", MFD_CLOEXEC));
  device_ = device;
  if (!probe || !open(probe)) {
    device_ = -1;
  }
  return available();
}

Result<BackingId> Passthrough::open(const Fd& file) {
  if (!available()) {
    return fail(EOPNOTSUPP);
  }
  const compat::BackingMap map{.fd = file.get(), .flags = 0, .padding = 0};
  const int id = ::ioctl(device_, compat::kBackingOpen, &map);
  if (id <= 0) {
    return fail(id == 0 ? EIO : errno);
  }
  return BackingId(this, id);
}

}  // namespace uvfio::nodes
