#include "limits.h"

#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "world.h"

void drop_lock_capability(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data)) {
    perror("capget");
    exit(2);
  }
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  if (syscall(SYS_capset, &header, data)) {
    perror("capset");
    exit(2);
  }
}

void limit_locked_memory(uint64_t pages) {
  struct rlimit limit;
  if (!getrlimit(RLIMIT_MEMLOCK, &limit)) {
    limit.rlim_cur = pages * kPage;
    if (!setrlimit(RLIMIT_MEMLOCK, &limit)) {
      return;
    }
  }
  perror("RLIMIT_MEMLOCK");
  exit(2);
}
