#include "devices/mtty/mtty_migration.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "uvfio/vfio_compat.h"

namespace uvfio::mtty {
namespace {

// ---- The format

struct WireHeader {
  static constexpr std::uint64_t kMagic = 0x7e9d09898c3e2c4e;
  static constexpr std::uint32_t kMajor = 1;

  std::uint64_t magic = kMagic;
  std::uint32_t major = kMajor;
  std::uint32_t minor = 0;
  std::uint32_t ports = 0;
  std::uint32_t flags = 0;

  bool operator==(const WireHeader&) const = default;
};
static_assert(sizeof(WireHeader) == 24);

struct WirePort {
  std::array<std::uint8_t, 8> registers;  // by address; only those that store what is written
  std::array<std::uint8_t, UartFifo::kCapacity> fifo;
  std::uint8_t head;
  std::uint8_t tail;
  std::uint8_t count;
  std::uint8_t divisor_latch_access;  // the bit of LCR again
  std::uint8_t overrun;
  std::uint8_t padding;
  std::uint16_t divisor;
  std::uint8_t fcr;
  std::uint8_t fifo_size;
  std::uint8_t trigger_level;
  std::uint8_t padding_end;
};
static_assert(sizeof(WirePort) == 36);
static_assert(offsetof(WirePort, head) == 24);
static_assert(offsetof(WirePort, divisor) == 30);
static_assert(offsetof(WirePort, fcr) == 32);

// Places in WirePort::registers.
constexpr std::size_t kIer = 1, kLcr = 3, kMcr = 4, kScr = 7;

WirePort encode(const UartState& state) {
  WirePort port{};
  port.registers[kIer] = state.ier.bits;
  port.registers[kLcr] = state.lcr.bits;
  port.registers[kMcr] = state.mcr.bits;
  port.registers[kScr] = state.scr;
  port.fifo = state.fifo.bytes;
  port.head = state.fifo.head;
  port.tail = state.fifo.tail;
  port.count = state.fifo.count;
  port.divisor_latch_access = state.lcr.divisor_latch_access();
  port.overrun = state.overrun;
  port.divisor = state.divisor;
  port.fcr = state.fcr.bits;
  port.fifo_size = state.fifo_size;
  port.trigger_level = state.trigger_level;
  return port;
}

// nullopt: no port is ever in such a state.
std::optional<UartState> decode(const WirePort& port) {
  const UartState state{
      .ier = {port.registers[kIer]},
      .fcr = {port.fcr},
      .lcr = {port.registers[kLcr]},
      .mcr = {port.registers[kMcr]},
      .scr = port.registers[kScr],
      .divisor = port.divisor,
      .fifo = {.bytes = port.fifo, .head = port.head, .tail = port.tail, .count = port.count},
      .fifo_size = port.fifo_size,
      .trigger_level = port.trigger_level,
      .overrun = port.overrun != 0,
  };
  const bool dlab = port.divisor_latch_access != 0;
  if (!state.valid() || dlab != state.lcr.divisor_latch_access()) return std::nullopt;
  return state;
}

constexpr std::size_t stream_size(std::size_t ports) {
  return sizeof(WireHeader) + ports * sizeof(WirePort);
}

template <typename T>
void append(std::vector<std::byte>& data, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  data.insert(data.end(), bytes.begin(), bytes.end());
}

// Needs sizeof(T) bytes at `offset`.
template <typename T>
T extract(std::span<const std::byte> data, std::size_t offset) {
  T value;
  std::memcpy(&value, data.subspan(offset).data(), sizeof value);
  return value;
}

bool is_pre_copy(std::uint32_t state) {
  return state == VFIO_DEVICE_STATE_PRE_COPY || state == VFIO_DEVICE_STATE_PRE_COPY_P2P;
}

}  // namespace

// ---- The streams

// What the client reads: the header while the device runs, the ports when it has stopped.
class SavingStream final : public vfio::MigrationStream {
 public:
  SavingStream(std::shared_ptr<const std::atomic<std::uint32_t>> state, std::size_t ports)
      : state_(std::move(state)) {
    append(data_, WireHeader{.ports = static_cast<std::uint32_t>(ports)});
  }

  Result<std::size_t> read(std::span<std::byte> data) override {
    const std::lock_guard lock(mutex_);
    if (dropped_) return fail(ENODEV);
    const std::size_t size = std::min(data.size(), data_.size() - position_);
    std::ranges::copy(std::span(data_).subspan(position_, size), data.begin());
    position_ += size;
    return size;
  }
  Result<std::size_t> write(std::span<const std::byte>) override { return fail(EINVAL); }

  Result<PrecopyInfo> precopy_info() override {
    const std::lock_guard lock(mutex_);
    if (!is_pre_copy(*state_)) return fail(EINVAL);
    if (dropped_) return fail(ENODEV);
    if (complete_) return fail(EINVAL);  // on the way out of PRE_COPY
    return PrecopyInfo{.initial_bytes = data_.size() - position_, .dirty_bytes = 0};
  }

  void complete(std::span<const Uart16550> ports) {
    const std::lock_guard lock(mutex_);
    for (const Uart16550& port : ports) append(data_, encode(port.state()));
    complete_ = true;
  }
  void drop() {
    const std::lock_guard lock(mutex_);
    dropped_ = true;
  }

 private:
  const std::shared_ptr<const std::atomic<std::uint32_t>> state_;
  std::mutex mutex_;
  std::vector<std::byte> data_;
  std::size_t position_ = 0;
  bool complete_ = false;
  bool dropped_ = false;
};

// What the client writes. A header is looked at as soon as it is complete. The sample loads what
// follows a bad one all the same; here the stream is of no use from then on.
class ResumingStream final : public vfio::MigrationStream {
 public:
  explicit ResumingStream(std::size_t ports) : ports_(ports) { data_.reserve(stream_size(ports)); }

  Result<std::size_t> read(std::span<std::byte>) override { return fail(EINVAL); }
  Result<std::size_t> write(std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    if (data.size() > stream_size(ports_) - data_.size()) return fail(ENOMEM);
    if (dropped_) return fail(ENODEV);
    const bool had_header = data_.size() >= sizeof(WireHeader);
    data_.insert(data_.end(), data.begin(), data.end());
    if (!had_header && data_.size() >= sizeof(WireHeader)) {
      const WireHeader wanted{.ports = static_cast<std::uint32_t>(ports_)};
      foreign_ = extract<WireHeader>(data_, 0) != wanted;
      if (foreign_) return fail(EFAULT);
    }
    return data.size();
  }

  // The state of every port; EINVAL when it is incomplete or wrong.
  Result<std::vector<UartState>> states() {
    const std::lock_guard lock(mutex_);
    if (foreign_ || data_.size() < stream_size(ports_)) return fail(EINVAL);
    std::vector<UartState> states;
    for (std::size_t i = 0; i < ports_; ++i) {
      const auto state = decode(extract<WirePort>(data_, stream_size(i)));
      if (!state) return fail(EINVAL);
      states.push_back(*state);
    }
    return states;
  }
  void drop() {
    const std::lock_guard lock(mutex_);
    dropped_ = true;
    data_.clear();
  }

 private:
  const std::size_t ports_;
  std::mutex mutex_;
  std::vector<std::byte> data_;
  bool foreign_ = false;  // the header is not one for this device
  bool dropped_ = false;
};

// ---- The states

MttyMigration::MttyMigration(std::mutex& device_mutex, std::span<Uart16550> ports)
    : device_mutex_(device_mutex),
      ports_(ports),
      state_(std::make_shared<std::atomic<std::uint32_t>>(VFIO_DEVICE_STATE_RUNNING)) {}

MttyMigration::~MttyMigration() { drop_streams(); }

std::uint32_t MttyMigration::flags() const {
  return VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY;
}

Result<std::uint64_t> MttyMigration::data_size() { return stream_size(ports_.size()); }

Result<std::shared_ptr<vfio::MigrationStream>> MttyMigration::step(std::uint32_t next) {
  const std::lock_guard lock(device_mutex_);
  auto stream = take_arc(*state_, next);
  if (stream) *state_ = next;
  return stream;
}

void MttyMigration::reset() {
  const std::lock_guard walk(walk_mutex());
  const std::lock_guard lock(device_mutex_);
  *state_ = VFIO_DEVICE_STATE_RUNNING;
  drop_streams();
}

void MttyMigration::close() {
  const std::lock_guard lock(device_mutex_);
  drop_streams();
}

Result<std::shared_ptr<vfio::MigrationStream>> MttyMigration::take_arc(std::uint32_t current,
                                                                       std::uint32_t next) {
  struct Arc {
    std::uint32_t from, to;
    auto operator<=>(const Arc&) const = default;
  };
  const Arc arc{current, next};

  // The device does no DMA and nothing by itself, so there is nothing to stop or start.
  static constexpr std::array<Arc, 6> kNothingToDo{{
      {VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_RUNNING_P2P},
      {VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_RUNNING},
      {VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_STOP},
      {VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RUNNING_P2P},
      {VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_PRE_COPY_P2P},
      {VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_PRE_COPY},
  }};
  static constexpr std::array<Arc, 3> kEndOfSaving{{
      {VFIO_DEVICE_STATE_PRE_COPY, VFIO_DEVICE_STATE_RUNNING},
      {VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_RUNNING_P2P},
      {VFIO_DEVICE_STATE_STOP_COPY, VFIO_DEVICE_STATE_STOP},
  }};
  static constexpr std::array<Arc, 2> kStartOfPreCopy{{
      {VFIO_DEVICE_STATE_RUNNING, VFIO_DEVICE_STATE_PRE_COPY},
      {VFIO_DEVICE_STATE_RUNNING_P2P, VFIO_DEVICE_STATE_PRE_COPY_P2P},
  }};
  static constexpr std::array<Arc, 2> kStopCopy{{
      {VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_STOP_COPY},
      {VFIO_DEVICE_STATE_PRE_COPY_P2P, VFIO_DEVICE_STATE_STOP_COPY},
  }};
  static constexpr Arc kStartOfResuming{VFIO_DEVICE_STATE_STOP, VFIO_DEVICE_STATE_RESUMING};
  static constexpr Arc kEndOfResuming{VFIO_DEVICE_STATE_RESUMING, VFIO_DEVICE_STATE_STOP};

  const auto among = [arc](const auto& arcs) { return std::ranges::find(arcs, arc) != arcs.end(); };
  if (among(kNothingToDo)) return nullptr;
  if (among(kEndOfSaving)) {
    drop_streams();
    return nullptr;
  }
  if (among(kStartOfPreCopy)) return open_saving();
  if (among(kStopCopy)) {
    // After PRE_COPY the client goes on with the stream that it has, unless it has closed the
    // device.
    const auto opened = saving_ == nullptr ? open_saving() : nullptr;
    saving_->complete(ports_);
    return opened;
  }
  if (arc == kStartOfResuming) {
    resuming_ = std::make_shared<ResumingStream>(ports_.size());
    return resuming_;
  }
  if (arc == kEndOfResuming) {
    if (const Status loaded = load(); !loaded) return std::unexpected(loaded.error());
    drop_streams();
    return nullptr;
  }
  return fail(EINVAL);
}

std::shared_ptr<SavingStream> MttyMigration::open_saving() {
  saving_ = std::make_shared<SavingStream>(state_, ports_.size());
  return saving_;
}

Status MttyMigration::load() {
  // None: the client has closed the device since it began to resume.
  if (resuming_ == nullptr) return fail(EINVAL);
  const auto states = resuming_->states();
  if (!states) return std::unexpected(states.error());
  for (std::size_t i = 0; i < ports_.size(); ++i) ports_[i].restore((*states)[i]);
  return {};
}

void MttyMigration::drop_streams() {
  if (saving_) std::exchange(saving_, nullptr)->drop();
  if (resuming_) std::exchange(resuming_, nullptr)->drop();
}

}  // namespace uvfio::mtty
