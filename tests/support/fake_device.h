// A device model for tests: two regions (plain memory), one interrupt, records of what happened to
// it.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "uvfio/device.h"
#include "uvfio/mdev.h"
#include "uvfio/vfio.h"

namespace uvfio::testing {

class FakeDevice final : public vfio::DeviceOps, public vfio::DmaClient {
 public:
  // What happens outlives the device, for whoever watches.
  struct Record {
    int opened = 0;
    int closed = 0;
    int requests = 0;
    int resets = 0;
    Status open_result;
    vfio::Device* device = nullptr;
    std::function<void()> on_request;
    std::function<void(std::uint64_t, std::uint64_t)> on_dma_unmap;
  };

  explicit FakeDevice(Record& record) : record_(record) {}

  Status open_device(vfio::Device& device) override {
    if (!record_.open_result) return record_.open_result;
    ++record_.opened;
    record_.device = &device;
    return {};
  }
  void close_device() override {
    ++record_.closed;
    record_.device = nullptr;
  }
  vfio::DeviceInfo info() override {
    return {
        .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET, .num_regions = 2, .num_irqs = 2};
  }
  Result<vfio::RegionInfo> region_info(std::uint32_t index) override {
    if (index >= 2) return fail(EINVAL);
    vfio::RegionInfo info{.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE |
                                   VFIO_REGION_INFO_FLAG_MMAP,
                          .size = memory_.size(),
                          .offset = std::uint64_t{index} << 40};
    if (index == 1) {
      info.capabilities.push_back(
          {.id = VFIO_REGION_INFO_CAP_TYPE, .version = 1, .payload = std::vector<std::byte>(8)});
      info.capabilities.push_back(
          {.id = VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, .version = 1, .payload = {}});
    }
    return info;
  }
  Result<vfio::IrqInfo> irq_info(std::uint32_t index) override {
    if (index >= 2) return fail(EINVAL);
    return vfio::IrqInfo{.flags = VFIO_IRQ_INFO_EVENTFD, .count = index == 0 ? 4u : 0u};
  }
  Result<int> set_irqs(const vfio::IrqSet& set) override {
    if (set.action() != VFIO_IRQ_SET_ACTION_TRIGGER) return fail(ENOTTY);
    for (std::size_t i = 0; i < set.fds.size(); ++i) {
      if (set.fds[i] < 0) continue;
      auto event = set.eventfd(i);
      if (!event) return std::unexpected(event.error());
      event->signal();
    }
    return static_cast<int>(set.bools.size());
  }
  Status reset() override {
    ++record_.resets;
    return {};
  }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    if (position >= memory_.size()) return fail(EINVAL);
    const auto run = std::min(data.size(), memory_.size() - position);
    std::ranges::copy(std::span(memory_).subspan(position, run), data.begin());
    return run;
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    if (position >= memory_.size()) return fail(EINVAL);
    const auto run = std::min(data.size(), memory_.size() - position);
    std::ranges::copy(data.first(run), memory_.begin() + static_cast<std::ptrdiff_t>(position));
    return run;
  }
  void request(unsigned) override {
    ++record_.requests;
    if (record_.on_request) record_.on_request();
  }
  vfio::DmaClient* dma_client() override { return this; }
  void dma_unmap(std::uint64_t iova, std::uint64_t size) override {
    if (record_.on_dma_unmap) record_.on_dma_unmap(iova, size);
  }

 private:
  Record& record_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(4096);
};

// A driver whose devices are FakeDevices with one shared record.
class FakeDriver final : public mdev::Driver {
 public:
  explicit FakeDriver(unsigned max_instances = 16) : max_instances_(max_instances) {}
  std::string name() const override { return "fake"; }
  std::string device_api() const override { return "vfio-pci"; }
  unsigned max_instances() const override { return max_instances_; }
  Result<std::unique_ptr<vfio::DeviceOps>> probe(mdev::Device&) override {
    if (during_probe) during_probe();
    if (!probe_result) return std::unexpected(probe_result.error());
    return std::make_unique<FakeDevice>(record);
  }
  void remove(mdev::Device&) override { ++removed; }

  FakeDevice::Record record;
  Status probe_result;
  std::function<void()> during_probe;
  int removed = 0;

 private:
  const unsigned max_instances_;
};

}  // namespace uvfio::testing
