// The admin command set (chapter 5).
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <span>

#include "devices/nvme/events.h"
#include "devices/nvme/features.h"
#include "devices/nvme/health.h"
#include "devices/nvme/identify.h"
#include "devices/nvme/io_commands.h"
#include "devices/nvme/queues.h"
#include "devices/nvme/request.h"
#include "uvfio/error.h"

namespace uvfio::nvme {

// The parts of a controller that admin commands work on.
struct AdminParts {
  const Identity& identity;
  Namespaces& namespaces;
  Queues& queues;
  Features& features;
  Events& events;
  Health& health;
  ErrorLog& errors;
  IoCommands& io;
  std::function<Result<vfio::Dma>()> new_dma;
  std::function<void(unsigned)> clear_doorbell;  // told its index, of a queue that is being made
  std::function<void(Request&)> finished;        // called once for each request
};

// One thread's.
class AdminCommands {
 public:
  explicit AdminCommands(AdminParts parts) : parts_(std::move(parts)) {}

  // From enabling the controller, with CC's value, to its reset.
  void connect(vfio::Dma dma, std::uint32_t configuration);
  void disconnect();

  void execute(Request& request);
  // A request has completed: Format NVM has something to tell.
  void completed(const Request& request);

 private:
  // nullopt: it goes on, and finishes by itself.
  using Outcome = std::optional<CommandStatus>;
  Outcome start(Request& request);
  CommandStatus create_completion_queue(const Command& command);
  CommandStatus create_submission_queue(const Command& command);
  CommandStatus delete_completion_queue(const Command& command);
  Outcome delete_submission_queue(Request& request);
  CommandStatus identify(const Command& command);
  CommandStatus get_log_page(const Command& command);
  CommandStatus set_features(Request& request);
  CommandStatus get_features(Request& request);
  CommandStatus abort(Request& request);
  CommandStatus configure_doorbell_buffer(const Command& command);
  Outcome format(Request& request);
  void check_temperature();

  CommandStatus send(const Command& command, std::span<const std::byte> data);

  AdminParts parts_;
  vfio::Dma dma_;
  std::uint64_t page_size_ = 4096;
  std::uint32_t configuration_ = 0;
  std::set<std::uint32_t> changed_namespaces_;
};

}  // namespace uvfio::nvme
