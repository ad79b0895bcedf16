#include "devices/nvme/queues.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

namespace uvfio::nvme {
namespace {

Progress progress(const Status& status) {
  if (status) return Progress::done;
  return status.error() == Errno{EACCES} ? Progress::stopped : Progress::fatal;
}

// Of a shared word in host memory, both while the window lasts.
std::atomic_ref<std::uint32_t> word_at(std::byte* data) {
  return std::atomic_ref<std::uint32_t>(*reinterpret_cast<std::uint32_t*>(data));
}

// The host may poll for the phase tag, so the word with it comes last.
Status write_entry(vfio::Dma& dma, std::uint64_t iova, const Completion& entry) {
  std::array<std::byte, sizeof entry> bytes;
  std::memcpy(bytes.data(), &entry, sizeof entry);
  constexpr std::size_t kLastWord = offsetof(Completion, cid);
  std::uint32_t last = 0;
  std::memcpy(&last, &bytes[kLastWord], sizeof last);

  auto window = dma.translate(iova, sizeof entry, vfio::Prot::write);
  if (window) {
    std::memcpy(window->data(), bytes.data(), kLastWord);
    word_at(window->data() + kLastWord).store(last, std::memory_order_release);
    return {};
  }
  if (window.error() != Errno{EOPNOTSUPP}) return std::unexpected(window.error());
  if (auto first = dma.write(iova, std::span(bytes).first(kLastWord)); !first) return first;
  return dma.write(iova + kLastWord, std::span(bytes).subspan(kLastWord));
}

}  // namespace

bool Queues::any_io_queue() const {
  const auto there = [](const auto& queue) { return queue && queue->id != 0; };
  return std::ranges::any_of(submission_, there) || std::ranges::any_of(completion_, there);
}

CompletionQueue& Queues::add(std::unique_ptr<CompletionQueue> queue) {
  return *(completion_[queue->id] = std::move(queue));
}

SubmissionQueue& Queues::add(std::unique_ptr<SubmissionQueue> queue) {
  ++queue->completions->submission_queues;
  return *(submission_[queue->id] = std::move(queue));
}

void Queues::remove_submission(std::uint16_t id) {
  --submission_[id]->completions->submission_queues;
  submission_[id].reset();
}

void Queues::remove_completion(std::uint16_t id) { completion_[id].reset(); }

void Queues::clear() {
  for (auto& queue : submission_) queue.reset();
  for (auto& queue : completion_) queue.reset();
  shadow_.reset();
}

std::optional<DoorbellError> Queues::ring(unsigned index, std::uint32_t value) {
  if (index % 2 == 0) {
    SubmissionQueue* const queue = submission(index / 2);
    if (queue == nullptr) return DoorbellError::invalid_register;
    if (value >= queue->size) return DoorbellError::invalid_value;
    queue->tail = value;
    return std::nullopt;
  }
  CompletionQueue* const queue = completion(index / 2);
  if (queue == nullptr) return DoorbellError::invalid_register;
  // Only what has been posted can have been taken.
  const auto behind = [&](std::uint32_t at) {
    return (queue->tail + queue->size - at) % queue->size;
  };
  if (value >= queue->size || behind(value) > behind(queue->head))
    return DoorbellError::invalid_value;
  queue->head = value;
  return std::nullopt;
}

void Queues::use_shadow(vfio::Dma dma, std::uint64_t doorbells, std::uint64_t event_indexes) {
  shadow_ = Shadow{.dma = std::move(dma), .doorbells = doorbells, .event_indexes = event_indexes};
}

// `otherwise` where host memory is not there: the real doorbells go on working.
std::uint32_t Queues::load_shadow(unsigned index, std::uint32_t otherwise) {
  const std::uint64_t iova = shadow_->doorbells + index * sizeof(std::uint32_t);
  const auto window = shadow_->dma.translate(iova, sizeof(std::uint32_t), vfio::Prot::read);
  if (window) return word_at(window->data()).load(std::memory_order_acquire);
  if (window.error() != Errno{EOPNOTSUPP}) return otherwise;
  std::uint32_t value = 0;
  if (!shadow_->dma.read(iova, std::as_writable_bytes(std::span(&value, 1)))) return otherwise;
  return value;
}

void Queues::store_event_index(unsigned index, std::uint32_t value) {
  const std::uint64_t iova = shadow_->event_indexes + index * sizeof(std::uint32_t);
  const auto window = shadow_->dma.translate(iova, sizeof(std::uint32_t), vfio::Prot::write);
  if (window) return word_at(window->data()).store(value, std::memory_order_release);
  if (window.error() != Errno{EOPNOTSUPP}) return;
  static_cast<void>(shadow_->dma.write(iova, std::as_bytes(std::span(&value, 1))));
}

bool Queues::read_shadow() {
  if (!shadow_) return false;
  bool news = false;
  for (unsigned id = 1; id < submission_.size(); ++id) {
    if (completion_[id] && load_shadow(2 * id + 1, 0) != completion_[id]->head)
      static_cast<void>(ring(2 * id + 1, load_shadow(2 * id + 1, completion_[id]->head)));
    if (!submission_[id]) continue;
    SubmissionQueue& queue = *submission_[id];
    const std::uint32_t tail = load_shadow(2 * id, queue.tail);
    if (tail == queue.tail || tail >= queue.size) continue;
    queue.tail = tail;
    news = true;
  }
  return news;
}

bool Queues::arm_shadow(bool heads) {
  if (!shadow_) return true;
  for (unsigned id = 1; id < submission_.size(); ++id) {
    if (submission_[id]) store_event_index(2 * id, submission_[id]->tail);
    if (!completion_[id]) continue;
    // One behind the head: no move of the head passes it, until the queue has gone round.
    const CompletionQueue& queue = *completion_[id];
    const bool ask = heads || !queue.waiting.empty();
    store_event_index(2 * id + 1, ask ? queue.head : (queue.head + queue.size - 1) % queue.size);
  }
  // The host writes its doorbell and then reads the index; we the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !read_shadow();
}

Progress Queues::fetch(SubmissionQueue& queue, std::span<Command> commands, unsigned& count) {
  count = 0;
  if (queue.deletion != nullptr || !queue.completions->waiting.empty()) return Progress::done;
  const std::uint32_t until = queue.tail >= queue.head ? queue.tail : queue.size;
  const std::uint32_t run =
      std::min<std::uint32_t>(until - queue.head, static_cast<std::uint32_t>(commands.size()));
  if (run == 0) return Progress::done;
  // The head moves only by what came; each entry is read once.
  const Progress read =
      progress(queue.dma.read(queue.base + (std::uint64_t{queue.head} << kSqEntryShift),
                              std::as_writable_bytes(commands.first(run))));
  if (read != Progress::done) return read;
  queue.head = (queue.head + run) % queue.size;
  queue.in_flight += run;
  count = run;
  return Progress::done;
}

Progress Queues::post(CompletionQueue& queue, unsigned& posted) {
  posted = 0;
  while (!queue.waiting.empty() && !queue.full()) {
    Completion entry = queue.waiting.front();
    entry.status = static_cast<std::uint16_t>(entry.status << 1 | (queue.phase ? 1 : 0));
    const Progress written = progress(
        write_entry(queue.dma, queue.base + (std::uint64_t{queue.tail} << kCqEntryShift), entry));
    if (written != Progress::done) return written;
    queue.waiting.pop_front();
    if (++queue.tail == queue.size) {
      queue.tail = 0;
      queue.phase = !queue.phase;
    }
    ++posted;
  }
  return Progress::done;
}

}  // namespace uvfio::nvme
