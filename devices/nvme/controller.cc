#include "devices/nvme/controller.h"

#include <pthread.h>
#include <sched.h>

#include <array>
#include <cstring>
#include <system_error>

#include "base/log.h"

namespace uvfio::nvme {
namespace {

// Commands that are taken from a queue before any of them is answered: few, so that the host works
// on the first answers beside us.
constexpr unsigned kFetch = 16;

constexpr std::chrono::microseconds kLinger{200};

// Of an operation whose result nobody can be told.
class Unanswered final : public IoTarget {
 public:
  [[nodiscard]] int error() const { return error_; }

 private:
  void io_done(int result) override {
    if (result < 0) error_ = -result;
  }
  int error_ = 0;
};

}  // namespace

std::expected<std::unique_ptr<Controller>, std::string> Controller::create(Identity identity,
                                                                           Namespaces namespaces,
                                                                           unsigned io_queues) {
  auto ring = Ring::create();
  if (!ring) return std::unexpected(ring.error());
  return std::unique_ptr<Controller>(
      new Controller(std::move(identity), std::move(namespaces), io_queues, std::move(*ring)));
}

Controller::Controller(Identity identity, Namespaces namespaces, unsigned io_queues,
                       std::unique_ptr<Ring> ring)
    : identity_(std::move(identity)),
      namespaces_(std::move(namespaces)),
      ring_(std::move(ring)),
      queues_(io_queues),
      features_(io_queues),
      events_([this](Request& request) { finished(request); }),
      io_(namespaces_, *ring_, features_, health_, [this](Request& request) { finished(request); }),
      admin_({.identity = identity_,
              .namespaces = namespaces_,
              .queues = queues_,
              .features = features_,
              .events = events_,
              .health = health_,
              .errors = errors_,
              .io = io_,
              .new_dma = [this] { return port_->dma(); },
              .clear_doorbell = [this](unsigned index) { mapped_.clear_doorbell(index); },
              .finished = [this](Request& request) { finished(request); }}),
      interrupts_(features_, io_queues + 1) {}

Controller::~Controller() {
  if (!worker_.joinable()) return;
  signal(kStop);
  worker_.join();
}

void Controller::connect(pci::Port& port) {
  port_ = &port;
  mapped_.connect(port.bar_memory(0), 2 * (queues_.io_queues() + 1));
  mapped_.reset(registers_);
}

// False: no thread can be had.
bool Controller::start() {
  std::call_once(start_once_, [this] {
    try {
      worker_ = std::thread([this] { run(); });
      pthread_setname_np(worker_.native_handle(), "nvme");
      started_ = true;
    } catch (const std::system_error&) {
      registers_.set_status(csts::Cfs::kMask);
    }
  });
  return started_;
}

void Controller::signal(std::uint32_t signals) {
  signals_.fetch_or(signals);
  ring_->wake();
}

void Controller::write(std::uint64_t offset, std::uint32_t value) {
  if (!start()) return;
  if (offset >= kDoorbells) {
    const std::uint64_t index = (offset - kDoorbells) / sizeof(std::uint32_t);
    if (index >= Doorbells::kCount) return;
    doorbells_.ring(static_cast<unsigned>(index), value);
    ring_->wake();
    return;
  }
  const std::lock_guard lock(configuration_mutex_);
  const std::uint64_t before = registers_.get(RegisterId::cc);
  switch (registers_.write(offset, value)) {
    case RegisterFile::Effect::none:
      break;
    case RegisterFile::Effect::interrupt_mask:
      signal(kLook);
      break;
    case RegisterFile::Effect::configuration:
      signal(cc::En::get(before) != 0 && cc::En::get(value) == 0 ? kConfiguration | kControllerReset
                                                                 : kConfiguration);
      break;
    case RegisterFile::Effect::subsystem_reset:
      signal(kSubsystemReset);
      break;
  }
}

void Controller::signal_and_wait(std::uint32_t signals) {
  std::unique_lock lock(wait_mutex_);
  const unsigned ticket = ++asked_;
  signal(signals | kAnswer);
  obeyed_.wait(lock, [&] { return static_cast<int>(answered_ - ticket) >= 0; });
}

void Controller::reset() {
  watching_ = false;
  started_ ? signal_and_wait(kFunctionReset) : registers_.power_on();
  mapped_.reset(registers_);
}

void Controller::bus_master_changed(bool enabled) {
  if (mapped_.mapped()) {
    watching_ = enabled;
    if (enabled && !start()) return;
  }
  if (!started_) return;
  enabled ? signal(kLook) : signal_and_wait(kDrain);
}

// ---- The worker.

void Controller::run() {
  ring_->enter();
  for (;;) {
    const std::uint32_t signals = signals_.exchange(0);
    if ((signals & kStop) != 0) break;
    obey(signals);
    const bool looked = look();
    take_doorbells();
    const bool fetched = fetch();
    ring_->poll();
    std::optional<Interrupts::Clock::time_point> next;
    if (enabled_) {
      post();
      next = interrupts_.send(*port_, queues_, registers_.interrupt_mask());
    }
    if (watching_) {
      if (looked || fetched) {
        pace_.alive(pci::Pace::Clock::now());
        reminded_ = false;
      }
      if (!fetched) rest(next);
      continue;
    }
    if (fetched || (!next && linger())) continue;
    if (enabled_ && !queues_.arm_shadow(port_->interrupt_mode() == pci::InterruptMode::intx))
      continue;
    sleep(next);
  }
  drain();
  controller_reset();
}

// What programs have written to the mapped registers takes the way of any other write.
bool Controller::look() {
  if (!watching_) return false;
  const bool any =
      mapped_.look([this](std::uint64_t offset, std::uint32_t value) { write(offset, value); });
  mapped_.show(registers_);
  return any;
}

// Until it is time to look at the mapped registers again, or something happens that is told.
void Controller::rest(std::optional<Interrupts::Clock::time_point> until) {
  const auto now = pci::Pace::Clock::now();
  const auto pause = pace_.pause(now);
  if (pause == pause.zero()) {
    sched_yield();
    return;
  }
  if (enabled_ && remind()) return;
  if (enabled_ && !queues_.arm_shadow(port_->interrupt_mode() == pci::InterruptMode::intx)) return;
  sleep(until ? std::min(*until, now + pause) : now + pause);
}

// To sleep and to be woken up takes the host a doorbell, and both longer than this. So while the
// host tends to come back sooner than that, wait for it. True: there is something to do.
bool Controller::linger() {
  if (!enabled_ || ring_->in_flight() != 0 || !patience_.worth()) return false;
  const auto end = Interrupts::Clock::now() + kLinger;
  // The time first: this thread may have been off its CPU meanwhile.
  for (bool over = false; !over;) {
    over = Interrupts::Clock::now() >= end;
    if (signals_.load() != 0 || doorbells_.any() || queues_.read_shadow()) {
      patience_.rewarded();
      reminded_ = false;
      return true;
    }
    sched_yield();  // it is the host's turn, perhaps on this very CPU
  }
  if (remind()) return true;
  patience_.in_vain();
  return false;
}

// A host that goes to sleep as its interrupt comes may find it with its next timer tick only (the
// idle loop of User-Mode Linux does). One that does not take what has been posted is interrupted
// once more, which costs it little if it was only busy. Only with shadow doorbells, which show at
// once what it has taken.
bool Controller::remind() {
  if (reminded_ || !queues_.have_shadow() || port_->interrupt_mode() == pci::InterruptMode::intx)
    return false;
  queues_.for_each_completion([this](const CompletionQueue& queue) {
    if (queue.empty()) return;
    interrupts_.posted(queue, 1);
    reminded_ = true;
  });
  return reminded_;
}

void Controller::sleep(std::optional<Interrupts::Clock::time_point> until) {
  std::optional<std::chrono::nanoseconds> timeout;
  if (until) {
    timeout = *until - Interrupts::Clock::now();
    if (timeout->count() <= 0) return;
  }
  const bool busy = ring_->in_flight() != 0;
  const auto before = busy ? Interrupts::Clock::now() : Interrupts::Clock::time_point();
  ring_->wait(timeout, [this] { return signals_.load() == 0 && !doorbells_.any(); });
  if (busy) health_.busy += Interrupts::Clock::now() - before;
}

void Controller::obey(std::uint32_t signals) {
  if (signals == 0) return;
  unsigned ticket = 0;
  if ((signals & kAnswer) != 0) {
    // With what the last of them has asked for.
    const std::lock_guard lock(wait_mutex_);
    ticket = asked_;
    signals |= signals_.exchange(0);
  }
  if ((signals & kStop) != 0) signal(kStop);  // for the loop to see
  if ((signals & kDrain) != 0) drain();
  if ((signals & kFunctionReset) != 0) {
    controller_reset();
    registers_.power_on();
  }
  if ((signals & kSubsystemReset) != 0) {
    controller_reset();
    registers_.power_on();
    registers_.set_status(csts::Nssro::kMask);
  }
  if ((signals & kControllerReset) != 0) controller_reset();
  if ((signals & kConfiguration) != 0) configure();
  if ((signals & kAnswer) == 0) return;
  const std::lock_guard lock(wait_mutex_);
  answered_ = ticket;
  obeyed_.notify_all();
}

void Controller::configure() {
  const auto configuration = static_cast<std::uint32_t>(registers_.get(RegisterId::cc));
  if (cc::En::get(configuration) != 0 && !enabled_ && !failed_) enable(configuration);
  if (cc::Shn::get(configuration) != 0 && !shut_down_) shut_down();
}

void Controller::enable(std::uint32_t configuration) {
  shut_down_ = false;
  registers_.clear_status(csts::Shst::kMask);
  doorbells_.clear();
  if (!start_queues(configuration)) {
    queues_.clear();
    fail();
    return;
  }
  enabled_ = true;
  registers_.set_status(csts::Rdy::kMask);
}

// False: the host's values are not possible (3.1.5, 7.6.1).
bool Controller::start_queues(std::uint32_t configuration) {
  if (cc::Css::get(configuration) != 0 || cc::Ams::get(configuration) != 0) return false;
  const unsigned page_shift = kMinPageShift + cc::Mps::get(configuration);
  if (page_shift > kMaxPageShift) return false;
  const std::uint64_t page_size = std::uint64_t{1} << page_shift;
  const std::uint64_t sizes = registers_.get(RegisterId::aqa);
  const std::uint64_t submission = registers_.get(RegisterId::asq);
  const std::uint64_t completion = registers_.get(RegisterId::acq);
  if (aqa::Asqs::get(sizes) == 0 || aqa::Acqs::get(sizes) == 0) return false;
  if (((submission | completion) & (page_size - 1)) != 0) return false;

  std::array<vfio::Dma, 4> engines;
  for (auto& engine : engines) {
    auto made = port_->dma();
    if (!made) return false;
    engine = std::move(*made);
  }
  auto completions = std::make_unique<CompletionQueue>();
  completions->base = completion;
  completions->size = aqa::Acqs::get(sizes) + 1;
  completions->interrupts = true;
  completions->dma = std::move(engines[0]);
  auto submissions = std::make_unique<SubmissionQueue>();
  submissions->base = submission;
  submissions->size = aqa::Asqs::get(sizes) + 1;
  submissions->completions = completions.get();
  submissions->dma = std::move(engines[1]);
  queues_.add(std::move(completions));
  queues_.add(std::move(submissions));
  io_.connect(std::move(engines[2]), page_size);
  admin_.connect(std::move(engines[3]), configuration);
  return true;
}

// 7.6.2: commands under way are completed, and the volatile cache is written.
void Controller::shut_down() {
  registers_.set_status(static_cast<std::uint32_t>(csts::Shst::put(1)));
  shut_down_ = true;
  drain();
  if (enabled_) {
    post();
    interrupts_.send(*port_, queues_, registers_.interrupt_mask());
  }
  Unanswered synced;
  for (const auto& each : namespaces_) ring_->sync_data(each->file(), synced);
  drain();
  if (synced.error() != 0) {
    spdlog::error("nvme: data may be lost, a file could not be synced at shutdown: {}",
                  strerror(synced.error()));
    registers_.set_status(static_cast<std::uint32_t>(csts::Cfs::put(1)));
  }
  registers_.clear_status(csts::Shst::kMask);
  registers_.set_status(static_cast<std::uint32_t>(csts::Shst::put(csts::kShutdownComplete)));
}

void Controller::drain() {
  while (ring_->in_flight() != 0) ring_->wait(std::nullopt, [] { return true; });
}

// 7.3.2: all queues are gone, and with them what waits in them.
void Controller::controller_reset() {
  drain();
  events_.reset([this](Request& request) { pool_.give_back(request); });
  queues_.for_each_submission([this](SubmissionQueue& queue) {
    if (queue.deletion != nullptr) pool_.give_back(*queue.deletion);
  });
  queues_.clear();
  io_.disconnect();
  admin_.disconnect();
  features_.reset();
  interrupts_.reset();
  if (enabled_ && port_->interrupt_mode() == pci::InterruptMode::intx) port_->set_intx(false);
  enabled_ = failed_ = shut_down_ = false;
  doorbells_.clear();
  registers_.controller_reset();
}

void Controller::fail() {
  failed_ = true;
  registers_.set_status(csts::Cfs::kMask);
}

void Controller::take_doorbells() {
  doorbells_.collect([this](unsigned index, std::uint32_t value) {
    if (!enabled_ || failed_) return;
    const auto error = queues_.ring(index, value);
    if (!error) return;
    events_.happened(*error == DoorbellError::invalid_register ? kInvalidDoorbellRegister
                                                               : kInvalidDoorbellValue);
  });
  if (enabled_ && !failed_) queues_.read_shadow();
}

// A burst of each queue; true: there may be more. Ids, not references: admin commands delete
// queues.
bool Controller::fetch() {
  bool any = false;
  for (unsigned id = 0; id <= queues_.io_queues(); ++id) {
    if (!enabled_ || failed_ || shut_down_) return false;
    if (SubmissionQueue* const queue = queues_.submission(id)) any |= fetch_from(*queue);
  }
  return any;
}

bool Controller::fetch_from(SubmissionQueue& queue) {
  std::array<Command, kFetch> commands;
  const unsigned most = std::min(
      {static_cast<unsigned>(commands.size()), features_.arbitration_burst(), pool_.left()});
  unsigned count = 0;
  switch (queues_.fetch(queue, std::span(commands).first(most), count)) {
    case Progress::fatal:
      fail();
      return false;
    case Progress::stopped:
      return false;
    case Progress::done:
      break;
  }
  const bool admin = queue.id == 0;
  for (const Command& command : std::span(commands).first(count)) {
    Request& request = pool_.take();
    request.command = command;
    request.queue = &queue;
    admin ? admin_.execute(request) : io_.execute(request);
  }
  return count != 0;
}

void Controller::finished(Request& request) {
  SubmissionQueue& queue = *request.queue;
  if (request.status != CommandStatus::success) remember_error(request);
  if (queue.id == 0) admin_.completed(request);
  const bool failed = request.status != CommandStatus::success;
  queue.completions->waiting.push_back(
      {.result = request.result,
       .sq_head = static_cast<std::uint16_t>(queue.head),
       .sq_id = queue.id,
       .cid = request.command.cid,
       .status = status_field(request.status, failed && !request.retry)});
  --queue.in_flight;
  pool_.give_back(request);
  if (queue.deletion == nullptr || queue.in_flight != 0) return;
  Request& deletion = *queue.deletion;
  queues_.remove_submission(queue.id);
  finished(deletion);
}

void Controller::remember_error(const Request& request) {
  // What the host has asked for is no error.
  if (request.status == CommandStatus::abort_requested) return;
  ErrorEntry entry{};
  entry.sq_id = request.queue->id;
  entry.cid = request.command.cid;
  entry.status = static_cast<std::uint16_t>(status_field(request.status, !request.retry) << 1);
  entry.location = 0xffff;  // not in one field of the command
  entry.nsid = request.command.nsid;
  if (request.queue->id != 0)
    entry.lba = std::uint64_t{request.command.cdw11} << 32 | request.command.cdw10;
  errors_.add(entry);
}

void Controller::post() {
  queues_.for_each_completion([this](CompletionQueue& queue) {
    if (failed_ || queue.waiting.empty()) return;
    unsigned posted = 0;
    if (queues_.post(queue, posted) == Progress::fatal) fail();
    interrupts_.posted(queue, posted);
  });
}

}  // namespace uvfio::nvme
