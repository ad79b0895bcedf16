// Moving the ABI's structs between the client and us.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "uapi/caller.h"

namespace uvfio::uapi {

// End of `member` in `type`: the ABI's minsz, when `member` is the last mandatory one.
#define UVFIO_OFFSET_OF_END(type, member) (offsetof(type, member) + sizeof(type::member))

// Fills the first `size` bytes of `value` from `user`. EFAULT.
template <typename T>
[[nodiscard]] Status copy_struct_in(Caller& caller, std::uint64_t user, T& value,
                                    std::size_t size = sizeof(T)) {
  static_assert(std::is_trivially_copyable_v<T>);
  return caller.copy_in(user, std::as_writable_bytes(std::span(&value, 1)).first(size));
}

// The same for a struct that starts with argsz. EINVAL: argsz is below `size`.
template <typename T>
[[nodiscard]] Status copy_sized_struct_in(Caller& caller, std::uint64_t user, T& value,
                                          std::size_t size) {
  if (auto copied = copy_struct_in(caller, user, value, size); !copied) return copied;
  if (value.argsz < size) return fail(EINVAL);
  return {};
}

// The first `size` bytes of `value` to `user`; 0 as the ioctl's result, or EFAULT.
template <typename T>
[[nodiscard]] Result<int> copy_struct_out(Caller& caller, std::uint64_t user, const T& value,
                                          std::size_t size = sizeof(T)) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (auto copied = caller.copy_out(user, std::as_bytes(std::span(&value, 1)).first(size));
      !copied) {
    return std::unexpected(copied.error());
  }
  return 0;
}

// Success without a value, as an ioctl's result.
[[nodiscard]] inline Result<int> done(const Status& status) {
  if (!status) return std::unexpected(status.error());
  return 0;
}

// access_ok(): could [user, user + size) be memory of a 64-bit process at all?
[[nodiscard]] constexpr bool is_user_range(std::uint64_t user, std::uint64_t size) {
  constexpr std::uint64_t kTaskSize = 0x7ffffffff000;  // x86-64 with four levels of page tables
  return size <= kTaskSize && user <= kTaskSize - size;
}

}  // namespace uvfio::uapi
