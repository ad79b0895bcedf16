// The endpoint test function as a PCI function: what pci_endpoint_test of Linux drives.
#pragma once

#include "uvfio/pci.h"

namespace uvfio::endpoint {

class Endpoint final : public pci::Model {
 public:
  [[nodiscard]] const pci::Description& description() const override { return description_; }
  void connect(pci::Port&) override {}
  [[nodiscard]] std::uint64_t read_bar(unsigned, std::uint64_t, unsigned) override { return 0; }
  void write_bar(unsigned, std::uint64_t, unsigned, std::uint64_t) override {}
  void reset() override {}

 private:
  const pci::Description description_{.vendor_id = 0x104c,  // Texas Instruments
                                      .device_id = 0xb500,  // DRA74x in endpoint mode
                                      .class_code = 0xff0000};
};

}  // namespace uvfio::endpoint
