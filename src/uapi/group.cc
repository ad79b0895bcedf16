#include <linux/vfio.h>

#include <algorithm>
#include <string>

#include "uapi/ioctl.h"
#include "uapi/user_struct.h"

namespace uvfio::uapi {
namespace {

// strndup_user with the limit of a page: EFAULT, or EINVAL when there is no end within it.
Result<std::string> copy_string_in(Caller& caller, std::uint64_t user) {
  constexpr std::uint64_t kPage = memory::kPageSize;
  std::string text;
  while (text.size() < kPage) {
    // Never past a page boundary: the next page may not be there, and need not be.
    const std::uint64_t at = user + text.size();
    const std::uint64_t run = std::min(kPage - at % kPage, kPage - text.size());
    std::string piece(run, '\0');
    if (auto copied = caller.copy_in(at, std::as_writable_bytes(std::span(piece))); !copied) {
      return std::unexpected(copied.error());
    }
    if (const auto end = piece.find('\0'); end != std::string::npos)
      return text.append(piece, 0, end);
    text += piece;
  }
  return fail(EINVAL);
}

Result<int> get_status(vfio::GroupFile& group, Caller& caller, std::uint64_t arg) {
  vfio_group_status status{};
  if (auto copied = copy_sized_struct_in(caller, arg, status, sizeof(vfio_group_status)); !copied) {
    return std::unexpected(copied.error());
  }
  const auto flags = group.status();
  if (!flags) return std::unexpected(flags.error());
  status.flags = *flags;
  return copy_struct_out(caller, arg, status);
}

Result<int> set_container(vfio::GroupFile& group, Caller& caller, std::uint64_t arg) {
  std::int32_t fd{};
  if (auto copied = copy_struct_in(caller, arg, fd); !copied) {
    return std::unexpected(copied.error());
  }
  auto container = caller.container(fd);
  if (!container && container.error() != Errno{EBADFD}) return std::unexpected(container.error());
  return done(group.set_container(container.value_or(nullptr)));
}

Result<int> get_device_fd(const std::shared_ptr<vfio::GroupFile>& group, Caller& caller,
                          std::uint64_t arg) {
  const auto name = copy_string_in(caller, arg);
  if (!name) return std::unexpected(name.error());
  auto file = vfio::GroupFile::get_device(group, *name);
  if (!file) return std::unexpected(file.error());
  return caller.install(std::move(*file));
}

}  // namespace

Result<int> group_ioctl(const std::shared_ptr<vfio::GroupFile>& group, Caller& caller,
                        std::uint32_t command, std::uint64_t arg) {
  switch (command) {
    case VFIO_GROUP_GET_STATUS:
      return get_status(*group, caller, arg);
    case VFIO_GROUP_SET_CONTAINER:
      return set_container(*group, caller, arg);
    case VFIO_GROUP_UNSET_CONTAINER:
      return done(group->unset_container());
    case VFIO_GROUP_GET_DEVICE_FD:
      return get_device_fd(group, caller, arg);
    default:
      return fail(ENOTTY);
  }
}

}  // namespace uvfio::uapi
