#include "devices/ioat/ioat.h"

#include <thread>

namespace uvfio::ioat {

namespace {

constexpr unsigned kRegisterBar = 0;
constexpr std::uint64_t kRegisterBarSize = 0x4000;
constexpr unsigned kMsixBar = 2;

// A stopped channel is being set up: Linux gives it 20 us from its first doorbell to its first sign
// of life, so look without a pause until the set-up should be over.
constexpr std::chrono::milliseconds kSetupSpin{250};

pci::Description describe() {
  pci::Description description{
      .vendor_id = 0x8086,
      .device_id = 0x2021,
      .subsystem_vendor_id = 0x8086,
      .subsystem_id = 0x0000,
      .revision_id = 0x04,
      .class_code = 0x088000,  // system peripheral, other
      .intx = true,
      .msi_vectors = 1,
      .msix = pci::MsiX{.vectors = 1,
                        .table_bar = kMsixBar,
                        .table_offset = 0,
                        .pba_bar = kMsixBar,
                        .pba_offset = 0x800},
  };
  description.bars[kRegisterBar] = {.kind = pci::Bar::Kind::memory64,
                                    .size = kRegisterBarSize,
                                    .mappable = {{.offset = 0, .size = kRegisterBarSize}},
                                    .trap_unmapped = true};
  description.bars[kMsixBar] = {.kind = pci::Bar::Kind::memory32, .size = 0x1000};
  return description;
}

}  // namespace

// Takes the lock from the watcher, which would otherwise come first again and again.
class Ioat::Entry {
 public:
  explicit Entry(Ioat& ioat) {
    ioat.waiting_.fetch_add(1);
    lock_ = std::unique_lock(ioat.mutex_);
    ioat.waiting_.fetch_sub(1);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

Ioat::Ioat(Faults faults) : description_(describe()), faults_(faults) {}

Ioat::~Ioat() = default;

void Ioat::connect(pci::Port& port) {
  channel_.emplace(port, RegisterFile(port.bar_memory(kRegisterBar)), faults_);
  channel_->reset();
}

std::uint64_t Ioat::read_bar(unsigned bar, std::uint64_t offset, unsigned width) {
  if (bar != kRegisterBar) return 0;
  const Entry entry(*this);
  return channel_->read(offset, width);
}

void Ioat::write_bar(unsigned bar, std::uint64_t offset, unsigned width, std::uint64_t value) {
  if (bar != kRegisterBar) return;
  const Entry entry(*this);
  channel_->write(offset, width, value);
  poked_ = true;
  wake_.notify_one();
}

void Ioat::interrupt_mode_changed() {
  const Entry entry(*this);
  channel_->observe();
  poked_ = true;
}

void Ioat::reset() {
  const Entry entry(*this);
  master_ = false;
  channel_->reset();
}

// The watcher touches the registers with the lock held only.
void Ioat::hold_still(const std::function<void()>& change) {
  const Entry entry(*this);
  change();
}

void Ioat::bus_master_changed(bool enabled) {
  const Entry entry(*this);
  master_ = enabled;
  poked_ = enabled;
  // Not before somebody drives it: a launcher that is still setting up its process has one thread.
  if (enabled && !watcher_.joinable())
    watcher_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
  wake_.notify_one();
}

void Ioat::watch(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (!master_) {
      // Nothing can move, so nothing is worth finding.
      wake_.wait(lock, stop, [this] { return master_; });
      continue;
    }
    bool alive = std::exchange(poked_, false);
    alive |= channel_->observe();
    alive |= channel_->execute();
    const auto now = pci::Pace::Clock::now();
    if (alive) pace_.alive(now);
    const auto pause = channel_->stopped() ? pace_.pause(now, kSetupSpin) : pace_.pause(now);
    if (pause != pause.zero()) {
      wake_.wait_for(lock, stop, pause, [this] { return poked_ || !master_; });
    } else if (!alive || waiting_.load() != 0) {
      lock.unlock();
      do std::this_thread::yield();
      while (waiting_.load() != 0);
      lock.lock();
    }
  }
}

}  // namespace uvfio::ioat
