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
  const std::uint32_t command = registers_.command;
  if (command == 0) return;
  registers_.command = 0;
  registers_.status = 0;
  execute(command);
}

void TestFunction::reset() {
  registers_ = {};
  registers_.capabilities = kUnalignedAccess | kMsix;
}

void TestFunction::execute(std::uint32_t command) {
  switch (command) {
    case kRaiseMsix:
      break;
    default:
      return;
  }
  registers_.status |= kInterruptRaised;  // before the interrupt, whose handler reads it
  host_.interrupt(registers_.interrupt_number - 1);
}

}  // namespace uvfio::endpoint
