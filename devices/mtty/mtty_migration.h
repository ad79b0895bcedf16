// Migration of the serial card: the state of its ports as a stream, in the format of the kernel's
// mtty sample, so that either can resume what the other has saved.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "devices/mtty/uart16550.h"
#include "uvfio/device.h"

namespace uvfio::mtty {

class SavingStream;
class ResumingStream;

// Thread-safe. Lock order: walk_mutex(), the device's mutex, a stream's mutex.
class MttyMigration final : public vfio::Migration {
 public:
  // Both outlive this. `device_mutex` guards `ports`.
  MttyMigration(std::mutex& device_mutex, std::span<Uart16550> ports);
  ~MttyMigration() override;

  [[nodiscard]] std::uint32_t flags() const override;
  [[nodiscard]] std::uint32_t state() override { return *state_; }
  [[nodiscard]] Result<std::shared_ptr<vfio::MigrationStream>> step(std::uint32_t next) override;
  [[nodiscard]] Result<std::uint64_t> data_size() override;

  // RESET: RUNNING, whatever the state was, and no stream. The ports stay as they are.
  void reset();
  // The device has been closed: no stream. As in the sample, the next open finds the same state.
  void close();

 private:
  Result<std::shared_ptr<vfio::MigrationStream>> take_arc(std::uint32_t current,
                                                          std::uint32_t next);
  std::shared_ptr<SavingStream> open_saving();
  Status load();
  void drop_streams();

  std::mutex& device_mutex_;
  std::span<Uart16550> ports_;
  // Shared with the streams, which a client may keep for longer than the device lives.
  std::shared_ptr<std::atomic<std::uint32_t>> state_;
  // Guarded by device_mutex_; the client may hold others, which are of no use any more.
  std::shared_ptr<SavingStream> saving_;
  std::shared_ptr<ResumingStream> resuming_;
};

}  // namespace uvfio::mtty
