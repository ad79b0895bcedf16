// A PCI model for tests: registers that keep what is written to them, and a record of what happened
// to it.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "uvfio/pci.h"

namespace uvfio::testing {

class PciModel final : public pci::Model {
 public:
  // Outlives the model.
  struct Record {
    pci::Port* port = nullptr;
    int resets = 0;
    bool bus_master = false;
    std::map<std::pair<unsigned, std::uint64_t>, std::uint64_t> registers;  // bar, offset
    unsigned last_width = 0;
    std::function<void()> on_write;
    std::mutex
        mutex;  // taken by the model's accesses, which ioeventfds make from a thread of their own
  };

  // BAR 0: 16 KiB of 64-bit memory with the MSI-X table at 0x2000; BAR 2: 32 I/O ports; BAR 4: 64
  // KiB of 32-bit memory, of which pages 1 and 2 can be mapped. All kinds of interrupts.
  static pci::Description full() {
    pci::Description description{.vendor_id = 0x1af4,
                                 .device_id = 0x1234,
                                 .subsystem_vendor_id = 0x1af4,
                                 .subsystem_id = 1,
                                 .revision_id = 7,
                                 .class_code = 0xff0001,
                                 .intx = true,
                                 .msi_vectors = 4,
                                 .msix = pci::MsiX{.vectors = 8,
                                                   .table_bar = 0,
                                                   .table_offset = 0x2000,
                                                   .pba_bar = 0,
                                                   .pba_offset = 0x3000}};
    description.bars[0] = {
        .kind = pci::Bar::Kind::memory64, .size = 0x4000, .prefetchable = true, .mappable = {}};
    description.bars[2] = {.kind = pci::Bar::Kind::io, .size = 32, .mappable = {}};
    description.bars[4] = {
        .kind = pci::Bar::Kind::memory32, .size = 0x10000, .mappable = {{0x1000, 0x2000}}};
    return description;
  }

  PciModel(pci::Description description, Record& record)
      : description_(std::move(description)), record_(record) {}

  const pci::Description& description() const override { return description_; }
  void connect(pci::Port& port) override { record_.port = &port; }
  std::uint64_t read_bar(unsigned bar, std::uint64_t offset, unsigned width) override {
    const std::lock_guard lock(record_.mutex);
    record_.last_width = width;
    std::uint64_t value = 0;
    for (unsigned i = 0; i < width; ++i) {
      const auto found = record_.registers.find({bar, offset + i});
      if (found != record_.registers.end()) value |= found->second << (8 * i);
    }
    return value;
  }
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override {
    const std::lock_guard lock(record_.mutex);
    record_.last_width = width;
    for (unsigned i = 0; i < width; ++i) {
      record_.registers[{bar, offset + i}] = value >> (8 * i) & 0xff;
    }
    if (record_.on_write) record_.on_write();
  }
  void reset() override {
    const std::lock_guard lock(record_.mutex);
    ++record_.resets;
    record_.registers.clear();
  }
  void bus_master_changed(bool enabled) override { record_.bus_master = enabled; }

 private:
  const pci::Description description_;
  Record& record_;
};

}  // namespace uvfio::testing
