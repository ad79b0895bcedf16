// The controller: registers and doorbells on one side, and a thread that takes commands from the
// queues, has them carried out, and posts what came of them. It sleeps when there is nothing to do.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "devices/nvme/admin_commands.h"
#include "devices/nvme/doorbells.h"
#include "devices/nvme/interrupts.h"
#include "devices/nvme/mapped_registers.h"
#include "devices/nvme/patience.h"
#include "devices/nvme/registers.h"
#include "pci/pace.h"
#include "uvfio/pci.h"

namespace uvfio::nvme {

class Controller {
 public:
  // 1 to kMaxIoQueues pairs of I/O queues. The error is a sentence.
  [[nodiscard]] static std::expected<std::unique_ptr<Controller>, std::string> create(
      Identity identity, Namespaces namespaces, unsigned io_queues);
  ~Controller();
  Controller(const Controller&) = delete;

  // Once, before any access.
  void connect(pci::Port& port);

  // Accesses to BAR 0 of 4 bytes, at multiples of 4. Thread-safe; never wait for I/O.
  [[nodiscard]] std::uint32_t read(std::uint64_t offset) const { return registers_.read(offset); }
  void write(std::uint64_t offset, std::uint32_t value);

  // Everything as after power-on. Waits for I/O under way; on return no memory of the host is held.
  void reset();
  // Bus mastering has been switched. Off: waits for I/O under way, so that no memory of the host
  // changes any more; on: what had to stop goes on.
  void bus_master_changed(bool enabled);
  // Calls `change` while nothing here touches the BAR's memory.
  void hold_still(const std::function<void()>& change) { mapped_.hold_still(change); }

 private:
  Controller(Identity identity, Namespaces namespaces, unsigned io_queues,
             std::unique_ptr<Ring> ring);

  // What other threads tell the worker.
  enum Signal : std::uint32_t {
    kConfiguration = 1 << 0,    // CC has been written
    kControllerReset = 1 << 1,  // CC.EN has gone from 1 to 0
    kSubsystemReset = 1 << 2,
    kLook = 1 << 3,  // something else may have changed
    kFunctionReset = 1 << 4,
    kDrain = 1 << 5,   // end the I/O under way
    kAnswer = 1 << 6,  // somebody waits
    kStop = 1 << 7,
  };
  bool start();
  void signal(std::uint32_t signals);
  void signal_and_wait(std::uint32_t signals);

  // The worker, and what only it uses.
  void run();
  void obey(std::uint32_t signals);
  void configure();
  void enable(std::uint32_t configuration);
  [[nodiscard]] bool start_queues(std::uint32_t configuration);
  void shut_down();
  void controller_reset();
  void drain();
  bool look();
  void rest(std::optional<Interrupts::Clock::time_point> until);
  bool linger();
  bool remind();
  void sleep(std::optional<Interrupts::Clock::time_point> until);
  void take_doorbells();
  bool fetch();
  bool fetch_from(SubmissionQueue& queue);
  void finished(Request& request);
  void remember_error(const Request& request);
  void post();
  void fail();

  const Identity identity_;
  Namespaces namespaces_;
  RegisterFile registers_;
  Doorbells doorbells_;
  MappedRegisters mapped_;
  std::atomic<bool> watching_{false};  // the worker looks at them
  std::atomic<std::uint32_t> signals_{0};
  std::mutex configuration_mutex_;  // writes of CC, to see EN change
  pci::Port* port_ = nullptr;

  std::unique_ptr<Ring> ring_;
  RequestPool pool_;
  Queues queues_;
  Features features_;
  Health health_;
  ErrorLog errors_;
  Events events_;
  IoCommands io_;
  AdminCommands admin_;
  Interrupts interrupts_;
  Patience patience_;
  pci::Pace pace_;          // of looking at mapped registers
  bool reminded_ = false;   // of what is posted now
  bool enabled_ = false;    // takes commands
  bool failed_ = false;     // CSTS.CFS
  bool shut_down_ = false;  // CC.SHN has been obeyed

  // Of those who wait for the worker to have obeyed.
  std::mutex wait_mutex_;
  std::condition_variable obeyed_;
  unsigned asked_ = 0;
  unsigned answered_ = 0;

  // It comes with the first write of a register: who makes a disk may have to be a process of one
  // thread.
  std::once_flag start_once_;
  std::atomic<bool> started_{false};
  std::thread worker_;  // last: it uses all of the above
};

}  // namespace uvfio::nvme
