// Intel's I/OAT DMA engine as a PCI function: one channel, and the thread that watches and runs it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "devices/ioat/channel.h"
#include "pci/pace.h"
#include "uvfio/pci.h"

namespace uvfio::ioat {

class Ioat final : public pci::Model {
 public:
  explicit Ioat(Faults faults = Faults::drop);
  ~Ioat() override;

  [[nodiscard]] const pci::Description& description() const override { return description_; }
  void connect(pci::Port& port) override;
  std::uint64_t read_bar(unsigned bar, std::uint64_t offset, unsigned width) override;
  void write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) override;
  void reset() override;
  void hold_still(const std::function<void()>& change) override;
  void bus_master_changed(bool enabled) override;
  void interrupt_mode_changed() override;

 private:
  class Entry;
  void watch(const std::stop_token& stop);

  const pci::Description description_;
  const Faults faults_;
  std::mutex mutex_;                  // guards what follows, but for waiting_
  std::atomic<unsigned> waiting_{0};  // threads that want mutex_ from the watcher
  std::condition_variable_any wake_;
  std::optional<Channel> channel_;
  pci::Pace pace_;
  bool master_ = false;
  bool poked_ = false;    // something happened that the watcher need not find by itself
  std::jthread watcher_;  // last: it uses all of the above
};

}  // namespace uvfio::ioat
