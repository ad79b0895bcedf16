// A command on its way through the controller.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/nvme/namespace.h"
#include "devices/nvme/protocol.h"
#include "devices/nvme/queues.h"
#include "devices/nvme/ring.h"
#include "devices/nvme/transfer.h"

namespace uvfio::nvme {

class IoCommands;

struct Request final : IoTarget {
  void io_done(int bytes) override;

  Command command{};
  SubmissionQueue* queue = nullptr;
  CommandStatus status = CommandStatus::success;
  std::uint32_t result = 0;  // double word 0 of the completion
  bool retry = false;        // may succeed another time

  // Of commands that the I/O engine works on.
  IoCommands* engine = nullptr;
  Namespace* target = nullptr;
  Transfer transfer;
  std::uint64_t offset = 0;     // in the file
  std::uint64_t size = 0;       // bytes
  bool durable = false;         // on the medium before it completes
  std::vector<Segment> ranges;  // of the file, for commands with several
  unsigned operations = 0;      // of the ring, under way
  int error = 0;                // errno of one that failed
  enum class Move : std::uint8_t { none, to_file, from_file } move = Move::none;  // the transfer
  CommandStatus (IoCommands::*next)(Request&) = nullptr;  // when they have all ended
};

// Requests to be used again, so that the memory that they need is there.
class RequestPool {
 public:
  static constexpr unsigned kMost = 2048;  // under way at once

  [[nodiscard]] unsigned left() const {
    return static_cast<unsigned>(free_.size()) + kMost - made_;
  }
  // left() is not 0.
  Request& take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Request>());
      ++made_;
      return *all_.back();
    }
    Request* const request = free_.back();
    free_.pop_back();
    return *request;
  }
  void give_back(Request& request) {
    request.transfer.release();
    request.queue = nullptr;
    request.status = CommandStatus::success;
    request.result = 0;
    request.retry = false;
    request.target = nullptr;
    request.operations = 0;
    request.error = 0;
    request.move = Request::Move::none;
    request.ranges.clear();
    request.next = nullptr;
    free_.push_back(&request);
  }

 private:
  std::vector<std::unique_ptr<Request>> all_;
  std::vector<Request*> free_;
  unsigned made_ = 0;
};

}  // namespace uvfio::nvme
