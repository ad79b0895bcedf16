// A PCI function's surroundings without configuration space or VFIO ioctls: a port whose DMA goes
// to memory of this process through a type1 container, and which counts interrupts.
#pragma once

#include <linux/vfio.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "iommu/type1/type1.h"
#include "tests/support/fake_address_space.h"
#include "tests/support/fake_device.h"
#include "uvfio/host.h"
#include "uvfio/pci.h"

namespace uvfio::testing {

class PciPort final : public pci::Port {
 public:
  // `size` bytes of memory, reached at IOVA kIova; nothing is mapped elsewhere.
  static constexpr std::uint64_t kIova = 0x10'0000'0000;

  explicit PciPort(std::uint64_t size, FakeAddressSpace::Kind kind = FakeAddressSpace::Kind::shared)
      : space_(std::make_shared<FakeAddressSpace>(kVaddr, size, kind)) {
    check(host_.mdev().register_driver(driver_));
    parent_ = *host_.mdev().register_parent(
        {.name = "fake", .driver_name = "fake", .types = {{"1", "Fake"}}}, driver_);
    mdev_ = *host_.mdev().create(parent_, parent_->types()[0], Uuid::random());
    container_ = host_.vfio().open_container();
    auto group = *host_.vfio().find_group(mdev_->vfio_device()->group().id())->open();
    check(group->set_container(container_));
    check(container_->set_iommu(VFIO_TYPE1v2_IOMMU));
    // In two mappings, so that transfers meet their border.
    check(map(0, size / 2));
    check(map(size / 2, size - size / 2));
    file_ = *vfio::GroupFile::get_device(group, mdev_->name());
  }
  ~PciPort() override {
    file_.reset();
    container_.reset();
    check(host_.mdev().remove(mdev_));
    mdev_.reset();
    host_.mdev().unregister_parent(parent_);
    host_.mdev().unregister_driver(driver_);
  }

  [[nodiscard]] std::span<std::byte> memory() { return space_->memory; }
  // Of [offset, offset + size) of the memory.
  Status map(std::uint64_t offset, std::uint64_t size) {
    return type1().map({.iova = kIova + offset,
                        .vaddr = kVaddr + offset,
                        .size = size,
                        .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE},
                       {.space = space_, .lock_cap = true});
  }
  Status unmap(std::uint64_t offset, std::uint64_t size) {
    const auto done = type1().unmap({.iova = kIova + offset, .size = size});
    if (!done) return std::unexpected(done.error());
    return {};
  }

  // Gives the model a BAR of zeros that can be mapped. Before it is connected.
  void make_bar(std::uint64_t size) { bar_.assign(size / sizeof(bar_[0]), 0); }

  // Waits until `done` says so, asking after each interrupt; false: ten seconds have passed.
  template <typename Done>
  bool wait(Done&& done) {
    std::unique_lock lock(mutex_);
    return interrupted_.wait_for(lock, std::chrono::seconds(10), done);
  }
  // Until `vector` has been raised `count` times. Entries are in memory before their interrupt.
  bool wait_raised(unsigned vector, unsigned count) {
    return wait([&] { return raised_[vector] >= count; });
  }
  [[nodiscard]] unsigned raised(unsigned vector) {
    const std::lock_guard lock(mutex_);
    return raised_[vector];
  }
  [[nodiscard]] bool pin() const { return pin_; }

  std::atomic<bool> bus_master = true;
  std::atomic<pci::InterruptMode> mode = pci::InterruptMode::msix;

  // pci::Port.
  std::span<std::byte> bar_memory(unsigned) override {
    return std::as_writable_bytes(std::span(bar_));
  }
  Result<vfio::Dma> dma() override { return mdev_->vfio_device()->dma(&bus_master); }
  pci::InterruptMode interrupt_mode() override { return mode; }
  void raise(unsigned vector) override {
    const std::lock_guard lock(mutex_);
    ++raised_[vector];
    interrupted_.notify_all();
  }
  void set_intx(bool asserted) override {
    const std::lock_guard lock(mutex_);
    pin_ = asserted;
    interrupted_.notify_all();
  }

 private:
  static constexpr std::uint64_t kVaddr = 0x4000'0000;

  static void check(const Status& status) {
    if (!status) std::abort();
  }
  iommu::type1::Type1& type1() { return dynamic_cast<iommu::type1::Type1&>(*container_->iommu()); }

  std::shared_ptr<FakeAddressSpace> space_;
  FakeDriver driver_;
  Host host_;
  std::shared_ptr<mdev::Parent> parent_;
  std::shared_ptr<mdev::Device> mdev_;
  std::shared_ptr<vfio::Container> container_;
  std::shared_ptr<vfio::DeviceFile> file_;

  std::vector<std::uint64_t> bar_;

  std::mutex mutex_;
  std::condition_variable interrupted_;
  std::map<unsigned, unsigned> raised_;
  std::atomic<bool> pin_ = false;
};

}  // namespace uvfio::testing
