// Capability chains: what follows an info struct when the caller gave room for it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "uapi/user_struct.h"
#include "uvfio/device.h"

namespace uvfio::uapi {

// Collects capabilities in order, each padded to 8 bytes (vfio_info_cap_add).
class CapabilityChain {
 public:
  void add(std::uint16_t id, std::uint16_t version, std::span<const std::byte> payload);
  // `capability` is an ABI struct that starts with its vfio_info_cap_header.
  template <typename T>
  void add_struct(std::uint16_t id, std::uint16_t version, const T& capability) {
    static_assert(std::is_trivially_copyable_v<T>);
    add(id, version,
        std::as_bytes(std::span(&capability, 1)).subspan(sizeof(vfio_info_cap_header)));
  }

  // Puts the chain behind `info`, which lies at `user`, if its argsz leaves room; otherwise argsz
  // becomes what is needed. EFAULT. An empty chain changes nothing.
  template <typename Info>
  [[nodiscard]] Status attach_to(Caller& caller, std::uint64_t user, Info& info,
                                 std::uint32_t caps_flag) {
    if (bytes_.empty()) return {};
    info.flags |= caps_flag;
    info.cap_offset = 0;
    if (info.argsz < sizeof(Info) + bytes_.size()) {
      info.argsz = static_cast<std::uint32_t>(sizeof(Info) + bytes_.size());
      return {};
    }
    shift(sizeof(Info));
    if (auto copied = caller.copy_out(user + sizeof(Info), bytes_); !copied) return copied;
    info.cap_offset = sizeof(Info);
    return {};
  }

 private:
  // Makes the links relative to a struct of `base` bytes before the chain.
  void shift(std::uint32_t base);

  std::vector<std::byte> bytes_;
  std::vector<std::size_t> starts_;
};

}  // namespace uvfio::uapi
