// Submission and completion queues (section 4.1): where the host has got to, entries in and out,
// and the shadow doorbells in host memory that save most writes of the real ones (section 5.7).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/nvme/doorbells.h"
#include "devices/nvme/protocol.h"
#include "uvfio/dma.h"
#include "uvfio/error.h"

namespace uvfio::nvme {

struct Request;

struct CompletionQueue {
  std::uint16_t id = 0;
  std::uint64_t base = 0;  // IOVA
  std::uint32_t size = 0;  // entries
  std::uint16_t vector = 0;
  bool interrupts = false;
  std::uint32_t head = 0;  // the host has taken those before it
  std::uint32_t tail = 0;
  bool phase = true;
  unsigned submission_queues = 0;
  std::deque<Completion> waiting;  // not posted yet: there was no room
  vfio::Dma dma;

  [[nodiscard]] bool full() const { return (tail + 1) % size == head; }
  [[nodiscard]] bool empty() const { return head == tail; }
};

struct SubmissionQueue {
  std::uint16_t id = 0;
  std::uint64_t base = 0;
  std::uint32_t size = 0;
  std::uint32_t head = 0;
  std::uint32_t tail = 0;  // the host has filled those before it
  CompletionQueue* completions = nullptr;
  unsigned in_flight = 0;       // commands taken and not completed
  Request* deletion = nullptr;  // the command that waits for the last of them
  vfio::Dma dma;
};

// What came of moving entries.
enum class Progress : std::uint8_t {
  done,
  stopped,  // no bus master, try again when it is
  fatal,    // host memory is not where the host said
};

// What was wrong with a doorbell (figure 146).
enum class DoorbellError : std::uint8_t { invalid_register, invalid_value };

// All queues of a controller. One thread's.
class Queues {
 public:
  explicit Queues(unsigned io_queues) : submission_(io_queues + 1), completion_(io_queues + 1) {}

  [[nodiscard]] SubmissionQueue* submission(std::uint32_t id) {
    return id < submission_.size() ? submission_[id].get() : nullptr;
  }
  [[nodiscard]] CompletionQueue* completion(std::uint32_t id) {
    return id < completion_.size() ? completion_[id].get() : nullptr;
  }
  [[nodiscard]] unsigned io_queues() const { return static_cast<unsigned>(submission_.size()) - 1; }
  [[nodiscard]] bool any_io_queue() const;

  // Their ids are free and in range.
  CompletionQueue& add(std::unique_ptr<CompletionQueue> queue);
  SubmissionQueue& add(std::unique_ptr<SubmissionQueue> queue);
  void remove_submission(std::uint16_t id);
  void remove_completion(std::uint16_t id);
  void clear();

  // The value of a doorbell.
  std::optional<DoorbellError> ring(unsigned index, std::uint32_t value);

  // Shadow doorbells and event indexes, a page each. ENXIO: no DMA.
  void use_shadow(vfio::Dma dma, std::uint64_t doorbells, std::uint64_t event_indexes);
  [[nodiscard]] bool have_shadow() const { return shadow_.has_value(); }
  // Looks at the shadow doorbells. True: something new has been submitted.
  bool read_shadow();
  // Asks for the real doorbell at the next submission, and looks once more: false if there is
  // something new already. `heads`: asks for completion heads as well.
  bool arm_shadow(bool heads);

  // Commands that may be taken from `queue` now, at most `commands.size()`; not past a full
  // completion queue.
  Progress fetch(SubmissionQueue& queue, std::span<Command> commands, unsigned& count);
  // Writes what waits, as far as there is room; `posted` is how many.
  Progress post(CompletionQueue& queue, unsigned& posted);

  template <typename Visit>
  void for_each_submission(Visit&& visit) {
    for (auto& queue : submission_) {
      if (queue) visit(*queue);
    }
  }
  template <typename Visit>
  void for_each_completion(Visit&& visit) {
    for (auto& queue : completion_) {
      if (queue) visit(*queue);
    }
  }

 private:
  struct Shadow {
    vfio::Dma dma;
    std::uint64_t doorbells = 0;
    std::uint64_t event_indexes = 0;
  };
  std::uint32_t load_shadow(unsigned index, std::uint32_t otherwise);
  void store_event_index(unsigned index, std::uint32_t value);

  std::vector<std::unique_ptr<SubmissionQueue>> submission_;
  std::vector<std::unique_ptr<CompletionQueue>> completion_;
  std::optional<Shadow> shadow_;
};

}  // namespace uvfio::nvme
