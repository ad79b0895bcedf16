// How much memory this process may lock.
#ifndef UVFIO_TESTS_SEQUENCES_LIMITS_H_
#define UVFIO_TESTS_SEQUENCES_LIMITS_H_

#include <stdint.h>

// Gives up CAP_IPC_LOCK, so that there is a limit.
void drop_lock_capability(void);
void limit_locked_memory(uint64_t pages);

#endif  // UVFIO_TESTS_SEQUENCES_LIMITS_H_
