#include "devices/endpoint/endpoint.h"

#include <algorithm>

namespace uvfio::endpoint {
namespace {

constexpr unsigned kRegisterBar = 0;
constexpr unsigned kMemoryBar = 2;  // plain memory, for the driver to fill with patterns
constexpr std::uint64_t kMemorySize = 64 << 10;

}  // namespace

pci::Description Endpoint::describe() {
  pci::Description description{.vendor_id = 0x104c,  // Texas Instruments
                               .device_id = 0xb500,  // DRA74x in endpoint mode
                               .class_code = 0xff0000};
  description.bars[kRegisterBar] = {.kind = pci::Bar::Kind::memory32, .size = 4096};
  description.bars[kMemoryBar] = {.kind = pci::Bar::Kind::memory32,
                                  .size = kMemorySize,
                                  .mappable = {{.offset = 0, .size = kMemorySize}}};
  return description;
}

std::uint64_t Endpoint::read_bar(unsigned, std::uint64_t offset, unsigned width) {
  const std::scoped_lock lock(mutex_);
  return function_.read(offset, width);
}

void Endpoint::write_bar(unsigned, std::uint64_t offset, unsigned width, std::uint64_t value) {
  const std::scoped_lock lock(mutex_);
  function_.write(offset, width, value);
}

void Endpoint::reset() {
  const std::scoped_lock lock(mutex_);
  function_.reset();
  std::ranges::fill(port_->bar_memory(kMemoryBar), std::byte{0});
}

}  // namespace uvfio::endpoint
