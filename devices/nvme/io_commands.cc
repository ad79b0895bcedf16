#include "devices/nvme/io_commands.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace uvfio::nvme {
namespace {

using BlockCount = Bits<15, 0>;  // figure 386, double word 12; 0's based
using ForceUnitAccess = Bits<30>;
using RangeCount = Bits<7, 0>;  // figure 362, double word 10; 0's based
using Deallocate = Bits<2>;     // double word 11

constexpr std::uint64_t kChunk = 1 << 20;  // of commands that no MDTS limits, bytes at once

bool takes_blocks(const Command& command) {
  switch (static_cast<IoOpcode>(command.opcode)) {
    case IoOpcode::read:
    case IoOpcode::write:
    case IoOpcode::compare:
    case IoOpcode::verify:
    case IoOpcode::write_zeroes:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Request::io_done(int bytes) { engine->operation_done(*this, bytes); }

Namespace* IoCommands::find(std::uint32_t nsid) const {
  return nsid - 1 < namespaces_.size() ? namespaces_[nsid - 1].get() : nullptr;
}

void IoCommands::execute(Request& request) {
  request.engine = this;
  request.status = start(request);
  if (request.operations == 0) finish(request);
}

CommandStatus IoCommands::start(Request& request) {
  const Command& command = request.command;
  const auto opcode = static_cast<IoOpcode>(command.opcode);
  if (Fuse::get(command.flags) != 0) return CommandStatus::invalid_field;
  if (opcode == IoOpcode::flush && command.nsid == kAllNamespaces) return flush(request);
  if (!takes_blocks(command) && opcode != IoOpcode::flush && opcode != IoOpcode::dataset_management)
    return CommandStatus::invalid_opcode;

  Namespace* const target = find(command.nsid);
  if (target == nullptr) return CommandStatus::invalid_namespace;
  if (target->formatting) return CommandStatus::format_in_progress;
  request.target = target;
  ++target->in_flight;
  if (takes_blocks(command)) {
    const CommandStatus status = use_blocks(request);
    if (status != CommandStatus::success) return status;
  }
  switch (opcode) {
    case IoOpcode::read:
    case IoOpcode::write:
      return read_or_write(request);
    case IoOpcode::compare:
      return compare(request);
    case IoOpcode::verify:
      return verify(request);
    case IoOpcode::write_zeroes:
      return write_zeroes(request);
    case IoOpcode::dataset_management:
      return dataset_management(request);
    case IoOpcode::flush:
      return flush(request);
  }
  return CommandStatus::invalid_opcode;
}

// Where in the file the blocks of the command are.
CommandStatus IoCommands::use_blocks(Request& request) {
  const Command& command = request.command;
  const Namespace& target = *request.target;
  const std::uint64_t first = std::uint64_t{command.cdw11} << 32 | command.cdw10;
  const std::uint64_t count = std::uint64_t{BlockCount::get(command.cdw12)} + 1;
  if (!target.contains(first, count)) return CommandStatus::lba_out_of_range;
  request.offset = first << target.lba_shift();
  request.size = count << target.lba_shift();
  request.durable = ForceUnitAccess::get(command.cdw12) != 0 || !features_.write_cache();
  return CommandStatus::success;
}

CommandStatus IoCommands::find_data_of(Request& request) {
  if (request.size > kMaxTransfer) return CommandStatus::invalid_field;
  return find_data(dma_, request.command, request.size, page_size_, request.transfer.segments());
}

CommandStatus IoCommands::read_or_write(Request& request) {
  const bool reads = static_cast<IoOpcode>(request.command.opcode) == IoOpcode::read;
  CommandStatus status = find_data_of(request);
  if (status != CommandStatus::success) return status;
  status =
      request.transfer.map(dma_, request.size, reads ? Direction::to_host : Direction::from_host);
  if (status != CommandStatus::success) return status;
  ++(reads ? health_.reads : health_.writes);
  (reads ? health_.bytes_read : health_.bytes_written) += request.size;
  move(request, reads ? Request::Move::from_file : Request::Move::to_file);
  return CommandStatus::success;
}

CommandStatus IoCommands::compare(Request& request) {
  const CommandStatus status = find_data_of(request);
  if (status != CommandStatus::success) return status;
  ++health_.reads;
  request.transfer.use_buffer(request.size);
  request.next = &IoCommands::compare_data;
  move(request, Request::Move::from_file);
  return CommandStatus::success;
}

CommandStatus IoCommands::compare_data(Request& request) {
  if (request.error != 0) return status_of(request);
  std::vector<std::byte> theirs(request.size);
  if (!copy_from_host(dma_, request.transfer.segments(), theirs))
    return CommandStatus::data_transfer_error;
  return std::ranges::equal(theirs, request.transfer.buffer()) ? CommandStatus::success
                                                               : CommandStatus::compare_failure;
}

CommandStatus IoCommands::verify(Request& request) {
  ++health_.reads;
  return verify_more(request);
}

// Reads everything, a piece at a time.
CommandStatus IoCommands::verify_more(Request& request) {
  if (request.error != 0) return status_of(request);
  if (request.size == 0) return CommandStatus::success;
  const std::uint64_t piece = std::min(request.size, kChunk);
  request.transfer.release();
  request.transfer.use_buffer(piece);
  request.size -= piece;
  request.next = &IoCommands::verify_more;
  move(request, Request::Move::from_file);
  return CommandStatus::success;
}

CommandStatus IoCommands::flush(Request& request) {
  if (request.target != nullptr) {
    sync(request, *request.target);
  } else {
    for (const auto& each : namespaces_) sync(request, *each);
  }
  return CommandStatus::success;
}

CommandStatus IoCommands::write_zeroes(Request& request) {
  ++health_.writes;
  request.next = &IoCommands::zeroes_punched;
  punch(request, *request.target, request.offset, request.size);
  return CommandStatus::success;
}

CommandStatus IoCommands::zeroes_punched(Request& request) {
  if (request.error == 0) return zeroes_written(request);
  // A file system without holes, or a block device with larger sectors.
  if (request.error != EOPNOTSUPP && request.error != EINVAL) return status_of(request);
  request.error = 0;
  return zero_more(request);
}

CommandStatus IoCommands::zero_more(Request& request) {
  if (request.error != 0) return status_of(request);
  if (request.size == 0) return zeroes_written(request);
  const std::uint64_t piece = std::min(request.size, kChunk);
  request.transfer.release();
  request.transfer.use_buffer(piece);
  std::ranges::fill(request.transfer.buffer(), std::byte{0});
  request.size -= piece;
  request.next = &IoCommands::zero_more;
  move(request, Request::Move::to_file);
  return CommandStatus::success;
}

CommandStatus IoCommands::zeroes_written(Request& request) {
  if (request.durable) sync(request, *request.target);
  return CommandStatus::success;
}

CommandStatus IoCommands::dataset_management(Request& request) {
  const Namespace& target = *request.target;
  std::array<DatasetRange, RangeCount::kMask + 1> ranges;
  const std::size_t count = std::size_t{RangeCount::get(request.command.cdw10)} + 1;
  const std::size_t bytes = count * sizeof(DatasetRange);
  std::vector<Segment> segments;
  const CommandStatus status = find_data(dma_, request.command, bytes, page_size_, segments);
  if (status != CommandStatus::success) return status;
  if (!copy_from_host(dma_, segments, std::as_writable_bytes(std::span(ranges)).first(bytes)))
    return CommandStatus::data_transfer_error;
  for (const DatasetRange& range : std::span(ranges).first(count)) {
    if (!target.contains(range.first, range.blocks)) return CommandStatus::lba_out_of_range;
    if (range.blocks == 0) continue;
    request.ranges.push_back(
        {range.first << target.lba_shift(), std::uint64_t{range.blocks} << target.lba_shift()});
  }
  // Hints about future accesses change nothing.
  if (Deallocate::get(request.command.cdw11) == 0) return CommandStatus::success;
  return deallocate_more(request);
}

CommandStatus IoCommands::deallocate_more(Request& request) {
  // Deallocation is advice: where it cannot be done the blocks stay.
  if (request.error == EOPNOTSUPP || request.error == EINVAL) request.error = 0;
  if (request.error != 0) return status_of(request);
  if (request.ranges.empty()) {
    // Blocks that read as zeros are written ones, when there is no cache to hold them back.
    if (!features_.write_cache()) sync(request, *request.target);
    return CommandStatus::success;
  }
  const Segment range = request.ranges.back();
  request.ranges.pop_back();
  request.next = &IoCommands::deallocate_more;
  punch(request, *request.target, range.iova, range.size);
  return CommandStatus::success;
}

void IoCommands::move(Request& request, Request::Move direction) {
  request.move = direction;
  ++request.operations;
  Namespace& target = *request.target;
  const auto memory = request.transfer.vectors();
  if (direction == Request::Move::to_file) {
    ring_.write(target.file(), memory, request.offset, request.durable, request);
  } else if (const auto bytes = target.cached().read(request.offset, memory); bytes != 0) {
    ring_.end(request, static_cast<int>(bytes));
  } else {
    ring_.read(target.file(), memory, request.offset, request);
  }
}

void IoCommands::punch(Request& request, Namespace& target, std::uint64_t offset,
                       std::uint64_t size) {
  ++request.operations;
  ring_.punch_hole(target.file(), offset, size, request);
}

void IoCommands::sync(Request& request, Namespace& target) {
  ++request.operations;
  ring_.sync_data(target.file(), request);
}

void IoCommands::operation_done(Request& request, int result) {
  --request.operations;
  if (result < 0) {
    request.error = -result;
  } else if (request.move != Request::Move::none) {
    request.offset += static_cast<std::uint64_t>(result);
    if (!request.transfer.advance(static_cast<std::uint64_t>(result))) {
      // A part is done: the rest, unless the file has become shorter than the namespace.
      if (result != 0) return move(request, request.move);
      request.error = EIO;
    }
  }
  if (request.operations == 0) go_on(request);
}

void IoCommands::go_on(Request& request) {
  if (request.next != nullptr) {
    const auto next = std::exchange(request.next, nullptr);
    request.status = (this->*next)(request);
    if (request.operations != 0) return;
  } else if (request.error != 0) {
    request.status = status_of(request);
  } else if (!request.transfer.finish(dma_)) {
    request.status = CommandStatus::data_transfer_error;
  }
  finish(request);
}

void IoCommands::finish(Request& request) {
  // The client's memory is free before the client can know.
  request.transfer.release();
  if (request.target != nullptr) --request.target->in_flight;
  finished_(request);
  if (format_.request != nullptr && !format_.begun) begin_format();
}

CommandStatus IoCommands::status_of(Request& request) {
  const bool reads = request.move == Request::Move::from_file;
  switch (request.error) {
    case EFAULT:
      return CommandStatus::data_transfer_error;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return CommandStatus::capacity_exceeded;
    case EINTR:
    case EAGAIN:
    case ENOMEM:
      request.retry = true;
      return CommandStatus::internal_error;
    default:
      ++health_.media_errors;
      return reads ? CommandStatus::unrecovered_read_error : CommandStatus::write_fault;
  }
}

}  // namespace uvfio::nvme
