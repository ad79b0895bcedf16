#include "devices/endpoint/test_function.h"

#include <cstring>

namespace uvfio::endpoint {

std::uint64_t TestFunction::read(std::uint64_t offset, unsigned width) const {
  std::uint64_t value = 0;
  if (offset < sizeof(Registers)) {
    std::memcpy(&value, reinterpret_cast<const std::byte*>(&registers_) + offset, width);
  }
  return value;
}

void TestFunction::write(std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (offset >= sizeof(Registers)) return;
  std::memcpy(reinterpret_cast<std::byte*>(&registers_) + offset, &value, width);
}

void TestFunction::reset() {
  registers_ = {};
  registers_.capabilities = kUnalignedAccess | kMsix;
}

}  // namespace uvfio::endpoint
