// What <linux/fuse.h> of Linux 6.9 (protocol 7.40) has and older headers lack. Our own names,
// because the header may or may not define the kernel's.
#pragma once

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace uvfio::nodes::compat {

inline constexpr std::uint32_t kPassthroughMinor = 40;

// fuse_init_in.flags2 and fuse_init_out.flags2: bit 37 of the 64.
inline constexpr std::uint32_t kInitPassthrough2 = 1u << (37 - 32);
// fuse_open_out.open_flags.
inline constexpr std::uint32_t kOpenPassthrough = 1u << 7;

struct BackingMap {  // struct fuse_backing_map
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
static_assert(sizeof(BackingMap) == 16);

inline constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kBackingClose = _IOW(229, 2, std::uint32_t);

// fuse_init_out and fuse_open_out, whole, as 7.40 has them.
struct InitOut {
  std::uint32_t major, minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
  std::uint16_t max_background, congestion_threshold;
  std::uint32_t max_write;
  std::uint32_t time_gran;
  std::uint16_t max_pages, map_alignment;
  std::uint32_t flags2;
  std::uint32_t max_stack_depth;
  std::uint32_t unused[6];
};
static_assert(sizeof(InitOut) == 64 && offsetof(InitOut, flags2) == 32);
static_assert(sizeof(InitOut) == sizeof(fuse_init_out));

struct OpenOut {
  std::uint64_t fh;
  std::uint32_t open_flags;
  std::int32_t backing_id;
};
static_assert(sizeof(OpenOut) == sizeof(fuse_open_out));

}  // namespace uvfio::nodes::compat
