#include "base/sigbus_guard.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <vector>

namespace uvfio {
namespace {

// Each replaced page splits the mapping, and the number of mappings is limited (vm.max_map_count).
// After so many faults in one range its client is not worth more: the whole rest is replaced at
// once.
constexpr std::uint32_t kMaxSinglePages = 64;

// A slot is written under a mutex and read by the handler, which may lock nothing: a sequence lock,
// odd while the slot changes. A faulting thread's own range cannot change under it (somebody keeps
// the mapping, or the access would be a bug), so the handler skips slots that do.
struct Slot {
  std::atomic<std::uint32_t> sequence{0};
  std::atomic<std::uint32_t> faults{0};
  std::atomic<std::uintptr_t> begin{0};  // begin == end: free
  std::atomic<std::uintptr_t> end{0};
  std::atomic<std::uintptr_t> page_size{0};
  std::atomic<int> protection{0};

  void set(std::uintptr_t new_begin, std::uintptr_t new_end, std::uintptr_t new_page_size,
           int new_protection) {
    const std::uint32_t now = sequence.load(std::memory_order_relaxed);
    sequence.store(now + 1, std::memory_order_relaxed);
    // Release: a reader that sees one of these values also sees the odd number.
    faults.store(0, std::memory_order_release);
    begin.store(new_begin, std::memory_order_release);
    end.store(new_end, std::memory_order_release);
    page_size.store(new_page_size, std::memory_order_release);
    protection.store(new_protection, std::memory_order_release);
    sequence.store(now + 2, std::memory_order_release);
  }
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

// Static storage: the handler must find it at any time, and pages that are never used cost nothing.
std::array<Slot, GuardedRange::kMaxRanges> slots;
std::atomic<std::uint32_t> slots_used{0};  // none in use from here on

std::mutex slots_mutex;
std::vector<std::uint32_t>& free_slots() {
  static auto* const list = new std::vector<std::uint32_t>;  // outlives every static GuardedRange
  return *list;
}

struct sigaction previous_action;

bool map_zeros(std::uintptr_t begin, std::uintptr_t size, int protection) {
  // The bare system call: async-signal-safe, and no sanitizer's interceptor in the way.
  return syscall(SYS_mmap, begin, size, protection,
                 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != -1;
}

bool replace_page(std::uintptr_t address) {
  const std::uint32_t used = slots_used.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < used; ++i) {
    Slot& slot = slots[i];
    const std::uint32_t sequence = slot.sequence.load(std::memory_order_acquire);
    const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const std::uintptr_t end = slot.end.load(std::memory_order_acquire);
    const std::uintptr_t page_size = slot.page_size.load(std::memory_order_acquire);
    const int protection = slot.protection.load(std::memory_order_acquire);
    if (address < begin || address >= end) continue;
    if (sequence % 2 != 0 || slot.sequence.load(std::memory_order_relaxed) != sequence) continue;

    const std::uintptr_t page = address & ~(page_size - 1);
    const std::uint32_t faults = slot.faults.fetch_add(1, std::memory_order_relaxed);
    return (faults < kMaxSinglePages && map_zeros(page, page_size, protection)) ||
           map_zeros(page, end - page, protection);
  }
  return false;
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool from_kernel = info->si_code > 0;
  const bool replaced =
      from_kernel && replace_page(reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = saved_errno;
  if (replaced) return;

  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler == SIG_IGN && !from_kernel) {
    return;
  } else if (previous_action.sa_handler == SIG_IGN || previous_action.sa_handler == SIG_DFL) {
    // As if we were not here: the access is repeated, or the signal delivered, upon return.
    std::signal(signal, SIG_DFL);
    if (!from_kernel) static_cast<void>(std::raise(signal));
  } else {
    previous_action.sa_handler(signal);
  }
}

void install_handler() {
  // Asked for beforehand: a signal may come as soon as the new handler is in place.
  sigaction(SIGBUS, nullptr, &previous_action);
  struct sigaction action = {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

Result<GuardedRange> GuardedRange::add(std::byte* begin, std::uint64_t size,
                                       std::uint64_t page_size, bool writable) {
  static std::once_flag installed;
  std::call_once(installed, install_handler);

  const std::scoped_lock lock(slots_mutex);
  std::uint32_t index = slots_used.load(std::memory_order_relaxed);
  if (!free_slots().empty()) {
    index = free_slots().back();
    free_slots().pop_back();
  } else if (index == kMaxRanges) {
    return fail(ENOSPC);
  } else {
    slots_used.store(index + 1, std::memory_order_release);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  slots[index].set(address, address + size, page_size,
                   writable ? PROT_READ | PROT_WRITE : PROT_READ);
  return GuardedRange(index);
}

GuardedRange::~GuardedRange() {
  if (slot_ == kNone) return;
  const std::scoped_lock lock(slots_mutex);
  slots[slot_].set(0, 0, 1, 0);
  free_slots().push_back(slot_);
}

std::uint32_t GuardedRange::faults() const {
  return slots[slot_].faults.load(std::memory_order_relaxed);
}

}  // namespace uvfio
