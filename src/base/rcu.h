// Read-copy-update over liburcu (the "bp" flavour: any thread may read, none has to register).
//
// liburcu synchronises with instructions that ThreadSanitizer cannot see; the annotations here tell
// it what synchronize() orders.
#pragma once

#include "base/sanitizers.h"

#ifndef UVFIO_ASAN
#define _LGPL_SOURCE  // inline the read side; its alignment promises do not hold under UBSan
#endif
#include <urcu/urcu-bp.h>

#ifdef UVFIO_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace uvfio::rcu {

inline char grace_period;  // what the annotations speak about

inline void read_lock() { urcu_bp_read_lock(); }

inline void read_unlock() {
#ifdef UVFIO_TSAN
  __tsan_release(&grace_period);
#endif
  urcu_bp_read_unlock();
}

// Returns once every reader that was inside when it was called has left. Not from within a reader.
inline void synchronize() {
  urcu_bp_synchronize_rcu();
#ifdef UVFIO_TSAN
  __tsan_acquire(&grace_period);
#endif
}

// A read-side section; may be nested. Do not block in it: writers wait.
class ReadGuard {
 public:
  ReadGuard() { read_lock(); }
  ~ReadGuard() { read_unlock(); }
  ReadGuard(const ReadGuard&) = delete;
  ReadGuard& operator=(const ReadGuard&) = delete;
};

}  // namespace uvfio::rcu
