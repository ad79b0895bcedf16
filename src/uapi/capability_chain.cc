#include "uapi/capability_chain.h"

#include <algorithm>
#include <cstring>

namespace uvfio::uapi {

void CapabilityChain::add(std::uint16_t id, std::uint16_t version,
                          std::span<const std::byte> payload) {
  const std::size_t start = bytes_.size();
  starts_.push_back(start);
  bytes_.resize((start + sizeof(vfio_info_cap_header) + payload.size() + 7) & ~std::size_t{7});
  const vfio_info_cap_header header{.id = id, .version = version, .next = 0};
  std::memcpy(&bytes_[start], &header, sizeof header);
  std::ranges::copy(payload, bytes_.begin() + static_cast<std::ptrdiff_t>(start + sizeof header));
}

void CapabilityChain::shift(std::uint32_t base) {
  for (std::size_t i = 0; i + 1 < starts_.size(); ++i) {
    const auto next = static_cast<std::uint32_t>(base + starts_[i + 1]);
    std::memcpy(&bytes_[starts_[i] + offsetof(vfio_info_cap_header, next)], &next, sizeof next);
  }
}

}  // namespace uvfio::uapi
