// For tests: a model whose registers are plain memory, and that says what was done to it.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "pci/function.h"
#include "pci/layout.h"

namespace uvfio::pci {

// A function with everything: pin, MSI, MSI-X, PM, PCIe with FLR, a ROM, and BARs of all kinds. BAR
// 0: 64-bit memory, its second page mappable; BAR 2: MSI-X; BAR 4: I/O ports.
inline Description everything() {
  Description description{
      .vendor_id = 0x1234,
      .device_id = 0x5678,
      .subsystem_vendor_id = 0x9abc,
      .subsystem_id = 0xdef0,
      .revision_id = 3,
      .class_code = 0x010802,
      .rom = std::vector<std::byte>(5000, std::byte{0x55}),
      .intx = true,
      .msi_vectors = 4,
      .msix = MsiX{
          .vectors = 65, .table_bar = 2, .table_offset = 0, .pba_bar = 2, .pba_offset = 0x1000}};
  description.bars[0] = {.kind = Bar::Kind::memory64,
                         .size = 0x4000,
                         .prefetchable = true,
                         .mappable = {{.offset = 0x1000, .size = 0x1000}}};
  description.bars[2] = {.kind = Bar::Kind::memory32, .size = 0x2000, .mappable = {}};
  description.bars[4] = {.kind = Bar::Kind::io, .size = 0x20, .mappable = {}};
  return description;
}

class TestModel final : public Model {
 public:
  struct Access {
    char kind;
    unsigned bar;
    std::uint64_t offset;
    unsigned width;
    std::uint64_t value;
    bool operator==(const Access&) const = default;
  };
  explicit TestModel(Description description = everything())
      : description_(std::move(description)) {}

  [[nodiscard]] const Description& description() const override { return description_; }
  void connect(Port& to) override { port = &to; }
  [[nodiscard]] std::uint64_t read_bar(unsigned bar, std::uint64_t offset,
                                       unsigned width) override {
    accesses.push_back({'r', bar, offset, width, 0});
    return 0x1122334455667788;
  }
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override {
    accesses.push_back({'w', bar, offset, width, value});
  }
  void reset() override { ++resets; }
  void hold_still(const std::function<void()>& change) override {
    ++stills;
    change();
  }
  void bus_master_changed(bool enabled) override { masters.push_back(enabled); }

  Port* port = nullptr;
  std::vector<Access> accesses;
  unsigned resets = 0;
  unsigned stills = 0;
  std::vector<bool> masters;

 private:
  const Description description_;
};

}  // namespace uvfio::pci
