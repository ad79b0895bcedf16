// Create and delete I/O queues (sections 5.3 to 5.6).
#include "devices/nvme/admin_commands.h"
#include "devices/nvme/registers.h"

namespace uvfio::nvme {
namespace {

using QueueId = Bits<15, 0>;     // double word 10
using QueueSize = Bits<31, 16>;  // 0's based
using Contiguous = Bits<0>;      // double word 11
using InterruptsEnabled = Bits<1>;
using UpperHalf = Bits<31, 16>;  // interrupt vector, or completion queue

// What both kinds of queue have to have.
CommandStatus check_memory(const Command& command, std::uint64_t page_size) {
  const std::uint32_t size = QueueSize::get(command.cdw10);
  if (size == 0 || size >= kMaxQueueEntries) return CommandStatus::invalid_queue_size;
  if (Contiguous::get(command.cdw11) == 0) return CommandStatus::invalid_field;  // CAP.CQR
  if (command.dptr[0] == 0 || (command.dptr[0] & (page_size - 1)) != 0)
    return CommandStatus::invalid_prp_offset;
  return CommandStatus::success;
}

}  // namespace

CommandStatus AdminCommands::create_completion_queue(const Command& command) {
  const std::uint32_t id = QueueId::get(command.cdw10);
  if (id == 0 || id > parts_.queues.io_queues() || parts_.queues.completion(id) != nullptr)
    return CommandStatus::invalid_queue_id;
  const CommandStatus memory = check_memory(command, page_size_);
  if (memory != CommandStatus::success) return memory;
  if (cc::IoCqes::get(configuration_) != kCqEntryShift) return CommandStatus::invalid_field;
  const std::uint32_t vector = UpperHalf::get(command.cdw11);
  if (vector > parts_.queues.io_queues()) return CommandStatus::invalid_interrupt_vector;
  auto dma = parts_.new_dma();
  if (!dma) return CommandStatus::internal_error;

  auto queue = std::make_unique<CompletionQueue>();
  queue->id = static_cast<std::uint16_t>(id);
  queue->base = command.dptr[0];
  queue->size = QueueSize::get(command.cdw10) + 1;
  queue->vector = static_cast<std::uint16_t>(vector);
  queue->interrupts = InterruptsEnabled::get(command.cdw11) != 0;
  queue->dma = std::move(*dma);
  parts_.clear_doorbell(2 * id + 1);
  parts_.queues.add(std::move(queue));
  return CommandStatus::success;
}

CommandStatus AdminCommands::create_submission_queue(const Command& command) {
  const std::uint32_t id = QueueId::get(command.cdw10);
  if (id == 0 || id > parts_.queues.io_queues() || parts_.queues.submission(id) != nullptr)
    return CommandStatus::invalid_queue_id;
  const CommandStatus memory = check_memory(command, page_size_);
  if (memory != CommandStatus::success) return memory;
  if (cc::IoSqes::get(configuration_) != kSqEntryShift) return CommandStatus::invalid_field;
  const std::uint32_t completions = UpperHalf::get(command.cdw11);
  if (completions == 0 || completions > parts_.queues.io_queues())
    return CommandStatus::invalid_queue_id;
  CompletionQueue* const target = parts_.queues.completion(completions);
  if (target == nullptr) return CommandStatus::completion_queue_invalid;
  auto dma = parts_.new_dma();
  if (!dma) return CommandStatus::internal_error;

  auto queue = std::make_unique<SubmissionQueue>();
  queue->id = static_cast<std::uint16_t>(id);
  queue->base = command.dptr[0];
  queue->size = QueueSize::get(command.cdw10) + 1;
  queue->completions = target;
  queue->dma = std::move(*dma);
  parts_.clear_doorbell(2 * id);
  parts_.queues.add(std::move(queue));
  return CommandStatus::success;
}

CommandStatus AdminCommands::delete_completion_queue(const Command& command) {
  const std::uint32_t id = QueueId::get(command.cdw10);
  if (id == 0 || parts_.queues.completion(id) == nullptr) return CommandStatus::invalid_queue_id;
  if (parts_.queues.completion(id)->submission_queues != 0)
    return CommandStatus::invalid_queue_deletion;
  parts_.queues.remove_completion(static_cast<std::uint16_t>(id));
  return CommandStatus::success;
}

AdminCommands::Outcome AdminCommands::delete_submission_queue(Request& request) {
  const std::uint32_t id = QueueId::get(request.command.cdw10);
  SubmissionQueue* const queue = id == 0 ? nullptr : parts_.queues.submission(id);
  if (queue == nullptr || queue->deletion != nullptr) return CommandStatus::invalid_queue_id;
  if (queue->in_flight != 0) {
    // Its commands complete first; the controller ends the deletion with the last one.
    queue->deletion = &request;
    return std::nullopt;
  }
  parts_.queues.remove_submission(static_cast<std::uint16_t>(id));
  return CommandStatus::success;
}

}  // namespace uvfio::nvme
