#include "devices/ioat/registers.h"

#include <algorithm>

namespace uvfio::ioat {

std::uint64_t RegisterFile::get(const Register& which) const {
  switch (which.width) {
    case 1:
      return load<std::uint8_t>(which);
    case 2:
      return load<std::uint16_t>(which);
    case 4:
      return load<std::uint32_t>(which);
    default:
      return load<std::uint64_t>(which);
  }
}

void RegisterFile::set(const Register& which, std::uint64_t value) {
  switch (which.width) {
    case 1:
      return store(which, static_cast<std::uint8_t>(value));
    case 2:
      return store(which, static_cast<std::uint16_t>(value));
    case 4:
      return store(which, static_cast<std::uint32_t>(value));
    default:
      return store(which, value);
  }
}

void RegisterFile::power_on() {
  std::size_t done = 0;
  for (const Register& each : kRegisters) {
    std::ranges::fill(memory_.subspan(done, each.offset - done), std::byte{0});
    set(each, each.reset);
    done = each.end();
  }
  std::ranges::fill(memory_.subspan(done), std::byte{0});
}

}  // namespace uvfio::ioat
