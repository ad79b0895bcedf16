// The endpoint test function as a PCI function: what pci_endpoint_test of Linux drives.
#pragma once

#include <mutex>

#include "devices/endpoint/test_function.h"
#include "uvfio/pci.h"

namespace uvfio::endpoint {

class Endpoint final : public pci::Model, private TestFunction::Host {
 public:
  [[nodiscard]] const pci::Description& description() const override { return description_; }
  void connect(pci::Port& port) override { port_ = &port; }
  [[nodiscard]] std::uint64_t read_bar(unsigned bar, std::uint64_t offset, unsigned width) override;
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override;
  void reset() override;

 private:
  // TestFunction::Host.
  Status read(std::uint64_t address, std::span<std::byte> data) override;
  Status write(std::uint64_t address, std::span<const std::byte> data) override;
  void interrupt(unsigned vector) override;

  static pci::Description describe();

  const pci::Description description_ = describe();
  pci::Port* port_ = nullptr;
  std::mutex mutex_;  // guards function_
  TestFunction function_{*this};
};

}  // namespace uvfio::endpoint
