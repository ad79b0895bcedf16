#include "vfio/migration.h"

#include <array>
#include <mutex>

#include "uvfio/vfio_compat.h"

namespace uvfio::vfio {
namespace {

enum State : std::uint8_t {
  error = VFIO_DEVICE_STATE_ERROR,
  stop = VFIO_DEVICE_STATE_STOP,
  running = VFIO_DEVICE_STATE_RUNNING,
  stop_copy = VFIO_DEVICE_STATE_STOP_COPY,
  resuming = VFIO_DEVICE_STATE_RESUMING,
  running_p2p = VFIO_DEVICE_STATE_RUNNING_P2P,
  pre_copy = VFIO_DEVICE_STATE_PRE_COPY,
  pre_copy_p2p = VFIO_DEVICE_STATE_PRE_COPY_P2P,
};
constexpr std::size_t kStates = 8;

struct Row {
  std::uint32_t needs;                 // flags of a device that has this state
  std::array<State, kStates> towards;  // first arc from here to the state of each column
};

constexpr std::uint32_t kBase = VFIO_MIGRATION_STOP_COPY;
constexpr std::uint32_t kP2p = kBase | VFIO_MIGRATION_P2P;
constexpr std::uint32_t kPreCopy = kBase | VFIO_MIGRATION_PRE_COPY;

// clang-format off
// ERROR as the way means that there is none.
constexpr std::array<Row, kStates> kTable{{
    // from           to ERROR  STOP         RUNNING      STOP_COPY     RESUMING     RUNNING_P2P  PRE_COPY     PRE_COPY_P2P
    /* ERROR        */ {0,               {error, error,       error,       error,        error,       error,       error,       error}},
    /* STOP         */ {kBase,           {error, stop,        running_p2p, stop_copy,    resuming,    running_p2p, running_p2p, running_p2p}},
    /* RUNNING      */ {kBase,           {error, running_p2p, running,     running_p2p,  running_p2p, running_p2p, pre_copy,    running_p2p}},
    /* STOP_COPY    */ {kBase,           {error, stop,        stop,        stop_copy,    stop,        stop,        error,       error}},
    /* RESUMING     */ {kBase,           {error, stop,        stop,        stop,         resuming,    stop,        stop,        stop}},
    /* RUNNING_P2P  */ {kP2p,            {error, stop,        running,     stop,         stop,        running_p2p, running,     pre_copy_p2p}},
    /* PRE_COPY     */ {kPreCopy,        {error, running,     running,     pre_copy_p2p, running,     running,     pre_copy,    pre_copy_p2p}},
    /* PRE_COPY_P2P */ {kPreCopy | kP2p, {error, running_p2p, running_p2p, stop_copy,    running_p2p, running_p2p, pre_copy,    pre_copy_p2p}},
}};
// clang-format on

bool has_state(std::uint32_t flags, std::uint32_t state) {
  return state < kStates && (kTable[state].needs & ~flags) == 0;
}

}  // namespace

Result<std::uint32_t> next_state(std::uint32_t flags, std::uint32_t current, std::uint32_t wanted) {
  if (!has_state(flags, current) || !has_state(flags, wanted)) return fail(EINVAL);
  State next = kTable[current].towards[wanted];
  while (next != error && !has_state(flags, next)) next = kTable[next].towards[wanted];
  if (next == error) return fail(EINVAL);
  return next;
}

Result<std::shared_ptr<MigrationStream>> set_state(Migration& migration, std::uint32_t wanted) {
  const std::lock_guard walk(migration.walk_mutex());
  std::shared_ptr<MigrationStream> stream;
  for (std::uint32_t current = migration.state(); current != wanted; current = migration.state()) {
    // The table opens streams in last steps only; another one could never be read.
    if (stream) return fail(EINVAL);
    const Result<std::uint32_t> next = next_state(migration.flags(), current, wanted);
    if (!next) return std::unexpected(next.error());
    Result<std::shared_ptr<MigrationStream>> opened = migration.step(*next);
    if (!opened) return std::unexpected(opened.error());
    stream = std::move(*opened);
  }
  if (stream) stream->precopy_info_v2 = migration.precopy_info_v2();
  return stream;
}

std::uint32_t get_state(Migration& migration) {
  const std::lock_guard walk(migration.walk_mutex());
  return migration.state();
}

}  // namespace uvfio::vfio
