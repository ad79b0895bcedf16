#include "devices/endpoint/test_function.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace uvfio::endpoint {
namespace {

// As Linux's crc32_le with a seed of all ones: reflected, not inverted at the end.
std::uint32_t crc32(std::span<const std::byte> data) {
  std::uint32_t crc = ~0u;
  for (const std::byte byte : data) {
    crc ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
  }
  return crc;
}

}  // namespace

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
    case kRead:
      registers_.status |= transfer(command) ? kReadDone : kReadDone << 1;
      break;
    case kWrite:
      registers_.status |= transfer(command) ? kWriteDone : kWriteDone << 1;
      break;
    case kCopy:
      registers_.status |= transfer(command) ? kCopyDone : kCopyDone << 1;
      break;
    default:
      return;
  }
  registers_.status |= kInterruptRaised;  // before the interrupt, whose handler reads it
  host_.interrupt(registers_.interrupt_number - 1);
}

bool TestFunction::transfer(std::uint32_t command) {
  if (registers_.size > kMaxTransfer) return false;
  std::vector<std::byte> data(registers_.size);
  if (command == kWrite) {
    std::ranges::generate(data, [this] { return static_cast<std::byte>(random_()); });
    registers_.checksum = crc32(data);
  } else if (!host_.read(registers_.source, data)) {
    registers_.status |= kSourceInvalid;
    return false;
  }
  if (command == kRead) return crc32(data) == registers_.checksum;
  if (host_.write(registers_.destination, data)) return true;
  registers_.status |= kDestinationInvalid;
  return false;
}

}  // namespace uvfio::endpoint
