#include "devices/edu/edu.h"

#include <cstring>
#include <span>

#include "base/log.h"

namespace uvfio::edu {
namespace {

constexpr std::uint32_t kIdentity = 0x0100'00ed;  // version 1.0
constexpr std::uint64_t kBarSize = 1 << 20;
constexpr std::uint64_t kFirstWide = 0x80;  // from here on, registers also take 8 bytes
constexpr std::uint64_t kNothing = ~std::uint64_t{0};

pci::Description describe() {
  pci::Description description{.vendor_id = 0x1234,
                               .device_id = 0x11e8,
                               // What QEMU gives all its devices.
                               .subsystem_vendor_id = 0x1af4,
                               .subsystem_id = 0x1100,
                               .revision_id = 0x10,
                               .class_code = 0x00ff00,
                               .intx = true,
                               .msi_vectors = 1,
                               .msi_maskable = false,
                               .power_management = false,
                               .pcie = false,
                               .flr = false};
  description.bars[0] = {.kind = pci::Bar::Kind::memory32, .size = kBarSize, .mappable = {}};
  return description;
}

// n! modulo 2^32. From 34 on the product has 32 factors of two.
std::uint32_t factorial_of(std::uint32_t n) {
  if (n >= 34) return 0;
  std::uint32_t product = 1;
  for (std::uint32_t i = 2; i <= n; ++i) product *= i;
  return product;
}

}  // namespace

Edu::Edu(std::uint64_t dma_mask) : description_(describe()), dma_mask_(dma_mask) {}

std::uint64_t Edu::read_bar(unsigned, std::uint64_t offset, unsigned width) {
  if (width < 4) return 0;  // no access that the device takes: the bus answers
  if (offset < kFirstWide && width != 4) return kNothing;
  const std::scoped_lock lock(mutex_);
  switch (offset) {
    case kIdentification:
      return kIdentity;
    case kLiveness:
      return liveness_;
    case kFactorial:
      return factorial_;
    case kStatus:
      return status_;
    case kInterruptStatus:
      return interrupt_status_;
    default:
      break;
  }
  const std::uint64_t* const dma = dma_register_locked(offset);
  return dma == nullptr ? kNothing : *dma;
}

void Edu::write_bar(unsigned, std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (width < 4 || (offset < kFirstWide && width != 4)) return;
  const auto word = static_cast<std::uint32_t>(value);
  const std::scoped_lock lock(mutex_);
  switch (offset) {
    case kLiveness:
      liveness_ = ~word;
      return;
    case kFactorial:
      if ((status_ & kStatusComputing) != 0) return;
      factorial_ = word;
      status_ |= kStatusComputing;
      return start_worker_locked();
    case kStatus:
      status_ = (status_ & ~kStatusInterrupt) | (word & kStatusInterrupt);
      return;
    case kInterruptRaise:
      return raise_locked(word);
    case kInterruptAcknowledge:
      return acknowledge_locked(word);
    default:
      break;
  }
  std::uint64_t* const dma = dma_register_locked(offset);
  if (dma == nullptr || (dma_.command & kDmaStart) != 0) return;  // fixed during a transfer
  if (dma == &dma_.command && (value & kDmaStart) == 0) return;
  *dma = value;
  if (dma == &dma_.command) start_worker_locked();
}

std::uint64_t* Edu::dma_register_locked(std::uint64_t offset) {
  switch (offset) {
    case kDmaSource:
      return &dma_.source;
    case kDmaDestination:
      return &dma_.destination;
    case kDmaCount:
      return &dma_.count;
    case kDmaCommand:
      return &dma_.command;
    default:
      return nullptr;
  }
}

void Edu::raise_locked(std::uint32_t bits) {
  interrupt_status_ |= bits;
  if (interrupt_status_ == 0) return;
  if (port_->interrupt_mode() == pci::InterruptMode::msi) {
    port_->raise(0);
  } else {
    port_->set_intx(true);
  }
}

void Edu::acknowledge_locked(std::uint32_t bits) {
  interrupt_status_ &= ~bits;
  if (interrupt_status_ == 0) port_->set_intx(false);
}

void Edu::start_worker_locked() {
  if (!worker_.joinable()) {
    worker_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
  }
  work_arrived_.notify_one();
}

void Edu::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const auto waiting = [this] {
    return (status_ & kStatusComputing) != 0 || (dma_.command & kDmaStart) != 0;
  };
  while (work_arrived_.wait(lock, stop, waiting) && !stop.stop_requested()) {
    if ((status_ & kStatusComputing) != 0) {
      factorial_ = factorial_of(factorial_);
      status_ &= ~kStatusComputing;
      if ((status_ & kStatusInterrupt) != 0) raise_locked(kInterruptFactorial);
    }
    if ((dma_.command & kDmaStart) != 0) {
      const DmaRegisters dma = dma_;
      lock.unlock();
      transfer(dma);
      lock.lock();
      dma_.command &= ~kDmaStart;
      if ((dma.command & kDmaInterrupt) != 0) raise_locked(kInterruptDma);
    }
  }
}

// A transfer that fails leaves no trace in the device's registers; it ends like any other.
void Edu::transfer(const DmaRegisters& dma) {
  const bool to_memory = (dma.command & kDmaToMemory) != 0;
  const std::uint64_t inside = to_memory ? dma.source : dma.destination;
  const std::uint64_t memory = (to_memory ? dma.destination : dma.source) & dma_mask_;
  if (inside < kBuffer || inside - kBuffer > kBufferSize ||
      dma.count > kBufferSize - (inside - kBuffer)) {
    spdlog::info("edu: a transfer of {:#x} bytes at {:#x} leaves the buffer", dma.count, inside);
    return;
  }
  if (dma.count == 0) return;
  const auto part = std::span(buffer_).subspan(inside - kBuffer, dma.count);
  auto engine = port_->dma();
  const Status done = !engine     ? Status(std::unexpected(engine.error()))
                      : to_memory ? engine->write(memory, part)
                                  : engine->read(memory, part);
  if (!done) spdlog::info("edu: DMA at {:#x} failed: {}", memory, strerror(value(done.error())));
}

void Edu::reset() {
  worker_ = {};  // asks it to stop, and waits
  const std::scoped_lock lock(mutex_);
  liveness_ = 0;
  factorial_ = 0;
  status_ = 0;
  interrupt_status_ = 0;
  dma_ = {};
  buffer_.fill(std::byte{0});
}

}  // namespace uvfio::edu
