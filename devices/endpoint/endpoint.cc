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
                               .class_code = 0xff0000,
                               .msix = pci::MsiX{.vectors = 4,
                                                 .table_bar = kRegisterBar,
                                                 .table_offset = 0x800,
                                                 .pba_bar = kRegisterBar,
                                                 .pba_offset = 0xc00}};
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

void Endpoint::interrupt(unsigned vector) { port_->raise(vector); }

Status Endpoint::read(std::uint64_t address, std::span<std::byte> data) {
  auto dma = port_->dma();
  if (!dma) return std::unexpected(dma.error());
  return dma->read(address, data);
}

Status Endpoint::write(std::uint64_t address, std::span<const std::byte> data) {
  auto dma = port_->dma();
  if (!dma) return std::unexpected(dma.error());
  return dma->write(address, data);
}

}  // namespace uvfio::endpoint
