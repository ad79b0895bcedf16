// The test function of Linux's PCI endpoint framework, without PCI: registers, and commands that
// move data. Written from Documentation/PCI/endpoint/pci-test-function.rst of Linux. No thread, no
// lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

#include "uvfio/error.h"

namespace uvfio::endpoint {

// They are plain memory to the driver, but for what a command in `command` does.
struct [[gnu::packed]] Registers {
  std::uint32_t magic = 0;
  std::uint32_t command = 0;
  std::uint32_t status = 0;
  std::uint64_t source = 0;
  std::uint64_t destination = 0;
  std::uint32_t size = 0;
  std::uint32_t checksum = 0;
  std::uint32_t interrupt_type = 0;
  std::uint32_t interrupt_number = 0;  // from 1
  std::uint32_t flags = 0;
  std::uint32_t capabilities = 0;
  std::uint32_t doorbell[3] = {};
};
static_assert(offsetof(Registers, destination) == 0x14 && sizeof(Registers) == 0x40);

enum Command : std::uint32_t {
  kRaiseMsix = 1 << 2,
  kRead = 1 << 3,
  kWrite = 1 << 4,
  kCopy = 1 << 5
};
// In `status`. After each Done there is its Failed.
enum StatusBit : std::uint32_t {
  kReadDone = 1 << 0,
  kWriteDone = 1 << 2,
  kCopyDone = 1 << 4,
  kInterruptRaised = 1 << 6,
  kSourceInvalid = 1 << 7,
  kDestinationInvalid = 1 << 8,
};
enum Capability : std::uint32_t { kUnalignedAccess = 1 << 0, kMsix = 1 << 2 };
inline constexpr std::uint32_t kMaxTransfer = 4 << 20;  // bytes

class TestFunction {
 public:
  // What the function is plugged into.
  class Host {
   public:
    virtual ~Host() = default;
    [[nodiscard]] virtual Status read(std::uint64_t address, std::span<std::byte> data) = 0;
    [[nodiscard]] virtual Status write(std::uint64_t address, std::span<const std::byte> data) = 0;
    virtual void interrupt(unsigned vector) = 0;
  };
  explicit TestFunction(Host& host) : host_(host) { reset(); }

  // Naturally aligned accesses of 1 to 8 bytes. There is nothing behind the registers.
  [[nodiscard]] std::uint64_t read(std::uint64_t offset, unsigned width) const;
  void write(std::uint64_t offset, unsigned width, std::uint64_t value);
  void reset();

 private:
  void execute(std::uint32_t command);
  [[nodiscard]] bool transfer(std::uint32_t command);

  Host& host_;
  Registers registers_;
  std::minstd_rand random_;
};

}  // namespace uvfio::endpoint
