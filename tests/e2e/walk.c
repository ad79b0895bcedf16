// A random walk through the states of VFIO's objects. What a step does may well be refused: it
// takes whatever is there, open or not. The walk never ends and never cleans up.

#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

enum {
  kPage = 4096,
  kMemorySize = 64 * kPage,
  kContainers = 2,
  kDevices = 4,
  kEventfds = 3,
  kMemories = 4,
  kMaxThreads = 4,
  kMaxChildren = 2,
};

// Descriptors are atomic as threads use them while the walk goes on; -1 is a fine one to use.
static const char* uuids[2];
static _Atomic int containers[kContainers];
static _Atomic int groups[2];  // of the two devices
static _Atomic int devices[kDevices];
static _Atomic int eventfds[kEventfds];
static _Atomic int stream = -1;
static void* memories[kMemories];
static unsigned threads, children;
static unsigned seed;

static unsigned random_below(unsigned limit) { return (unsigned)rand_r(&seed) % limit; }

static int any(_Atomic int* fds, size_t count) { return fds[random_below((unsigned)count)]; }
#define ANY(fds) any(fds, ARRAY_SIZE(fds))

static void replace(_Atomic int* fd, int by) {
  const int old = *fd;
  *fd = by;
  if (old >= 0) {
    close(old);
  }
}

// Most walks would get nowhere if each step took a random object: the first one is the favourite.
static unsigned favourite_below(unsigned limit) {
  return random_below(4) ? 0 : random_below(limit);
}

// ---- Container, group, IOMMU.

static void step_open_container(void) {
  replace(&containers[favourite_below(kContainers)], open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC));
}

static void step_open_group(void) {
  const unsigned which = favourite_below(2);
  char path[64];
  if (group_path(uuids[which], path, sizeof(path))) {
    replace(&groups[which], open(path, O_RDWR | O_CLOEXEC));
  }
}

static void step_set_container(void) {
  const int container = containers[favourite_below(kContainers)];
  ioctl(groups[favourite_below(2)], VFIO_GROUP_SET_CONTAINER, &container);
}

static void step_unset_container(void) { ioctl(ANY(groups), VFIO_GROUP_UNSET_CONTAINER); }

static void step_set_iommu(void) {
  const unsigned long types[] = {VFIO_TYPE1v2_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_IOMMU,
                                 VFIO_NOIOMMU_IOMMU};
  ioctl(containers[favourite_below(kContainers)], VFIO_SET_IOMMU,
        types[random_below(ARRAY_SIZE(types))]);
}

static void step_open_device(void) {
  const unsigned which = favourite_below(2);
  replace(&devices[random_below(kDevices)],
          ioctl(groups[which], VFIO_GROUP_GET_DEVICE_FD, uuids[which]));
}

static void step_attach(void) {
  step_open_container();
  step_open_group();
  step_set_container();
  step_set_iommu();
  step_open_device();
}

// ---- Memory.

static void step_make_memory(void) {
  void** const memory = &memories[random_below(kMemories)];
  if (*memory && random_below(2)) {
    munmap(*memory, kMemorySize);  // It stays mapped for DMA.
  }
  const unsigned how = random_below(3);
  const int file = how == 2 ? memfd_create("e2e", MFD_CLOEXEC) : -1;
  if (file >= 0 && ftruncate(file, kMemorySize)) {
    abort();
  }
  const int flags[] = {MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED};
  *memory = mmap(NULL, kMemorySize, PROT_READ | PROT_WRITE, flags[how], file, 0);
  if (*memory == MAP_FAILED) {
    abort();
  }
  if (file >= 0) {
    close(file);
  }
}

static void step_change_memory(void) {
  char* const memory = memories[random_below(kMemories)];
  if (!memory) {
    return;
  }
  const size_t offset = random_below(kMemorySize / kPage) * kPage;
  switch (random_below(3)) {
    case 0:
      madvise(memory + offset, kPage, MADV_DONTNEED);
      break;
    case 1:
      mprotect(memory + offset, kPage, random_below(2) ? PROT_READ : PROT_READ | PROT_WRITE);
      break;
    default:
      munmap(memory + offset, kPage);
      break;
  }
}

static uint64_t random_iova(void) { return (uint64_t)random_below(32) * kPage; }
static uint64_t random_size(void) { return (1 + (uint64_t)random_below(16)) * kPage; }

static void step_map(void) {
  const char* const memory = memories[random_below(kMemories)];
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof(map),
      .flags = 1 + random_below(3),
      .vaddr = (uintptr_t)memory + random_below(8) * kPage,
      .iova = random_iova(),
      .size = random_size(),
  };
  ioctl(containers[favourite_below(kContainers)], VFIO_IOMMU_MAP_DMA, &map);
}

static void step_unmap(void) {
  const bool all = !random_below(4);
  struct vfio_iommu_type1_dma_unmap unmap = {
      .argsz = sizeof(unmap),
      .flags = all ? VFIO_DMA_UNMAP_FLAG_ALL : 0,
      .iova = all ? 0 : random_iova(),
      .size = all ? 0 : random_size(),
  };
  ioctl(containers[favourite_below(kContainers)], VFIO_IOMMU_UNMAP_DMA, &unmap);
}

static void step_dirty_pages(void) {
  uint64_t bits[4];
  struct {
    struct vfio_iommu_type1_dirty_bitmap header;
    struct vfio_iommu_type1_dirty_bitmap_get get;
  } dirty = {
      .header = {.argsz = sizeof(dirty), .flags = 1U << random_below(3)},
      .get = {.iova = random_iova(),
              .size = random_size(),
              .bitmap = {.pgsize = kPage, .size = sizeof(bits), .data = (void*)bits}},
  };
  ioctl(containers[favourite_below(kContainers)], VFIO_IOMMU_DIRTY_PAGES, &dirty);
}

// ---- Device.

static void step_ask_device(void) {
  const int device = ANY(devices);
  struct vfio_device_info info = {.argsz = sizeof(info)};
  ioctl(device, VFIO_DEVICE_GET_INFO, &info);
  struct vfio_region_info region = {.argsz = sizeof(region), .index = random_below(10)};
  ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region);
  struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = random_below(6)};
  ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &irq);
}

static void step_make_eventfd(void) {
  replace(&eventfds[random_below(kEventfds)], eventfd(0, EFD_CLOEXEC));
}

static void step_set_irqs(void) {
  const int device = ANY(devices);
  const int32_t payload = ANY(eventfds);
  const uint32_t actions[] = {VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK,
                              VFIO_IRQ_SET_ACTION_TRIGGER};
  const bool with_eventfd = random_below(2);
  union {
    struct vfio_irq_set header;
    char bytes[sizeof(struct vfio_irq_set) + sizeof(payload)];
  } set = {.header = {
               .argsz = sizeof(set),
               .flags = (with_eventfd ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE) |
                        actions[random_below(ARRAY_SIZE(actions))],
               .index = random_below(2),
               .count = with_eventfd ? 1 : random_below(2),
           }};
  memcpy(set.header.data, &payload, sizeof(payload));
  ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

static void write_register(int device, unsigned number, uint8_t value) {
  if (pwrite(device, &value, 1, (off_t)uart_register(number)) != 1) {
    return;  // Closed, or never open.
  }
}

static void step_use_uart(void) {
  const int device = ANY(devices);
  write_register(device, UART_LCR, UART_LCR_WLEN8);
  write_register(device, UART_IER, UART_IER_RDI | UART_IER_THRI);
  write_register(device, UART_TX, 'x');
  uint8_t bytes[8];
  if (pread(device, bytes, sizeof(bytes), (off_t)uart_register(0)) < 0) {
    return;
  }
}

static void step_reset(void) { ioctl(ANY(devices), VFIO_DEVICE_RESET); }

static void step_migrate(void) {
  union {
    struct vfio_device_feature header;
    char bytes[sizeof(struct vfio_device_feature) + sizeof(struct vfio_device_feature_mig_state)];
  } feature = {.header = {
                   .argsz = sizeof(feature),
                   .flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
               }};
  struct vfio_device_feature_mig_state state = {.device_state = random_below(8), .data_fd = -1};
  memcpy(feature.header.data, &state, sizeof(state));
  if (ioctl(ANY(devices), VFIO_DEVICE_FEATURE, &feature)) {
    return;
  }
  memcpy(&state, feature.header.data, sizeof(state));
  if (state.data_fd >= 0) {
    replace(&stream, state.data_fd);
  }
}

static void step_use_stream(void) {
  char bytes[40] = "";
  const ssize_t moved = random_below(2) ? read(stream, bytes, 1 + random_below(sizeof(bytes)))
                                        : write(stream, bytes, 1 + random_below(sizeof(bytes)));
  (void)moved;
}

// ---- Descriptors, processes, threads.

static void step_close(void) {
  switch (random_below(6)) {
    case 0:
      replace(&containers[random_below(kContainers)], -1);
      break;
    case 1:
      replace(&groups[random_below(2)], -1);
      break;
    case 2:
    case 3:
      replace(&devices[random_below(kDevices)], -1);
      break;
    case 4:
      replace(&eventfds[random_below(kEventfds)], -1);
      break;
    default:
      replace(&stream, -1);
      break;
  }
}

static void step_duplicate(void) {
  // The copy is never closed. There are at most as many as the limit on descriptors allows.
  const int fds[] = {ANY(containers), ANY(groups), ANY(devices), stream};
  fcntl(fds[random_below(ARRAY_SIZE(fds))], F_DUPFD_CLOEXEC, 3);
}

static void step_fork(void) {
  if (children == kMaxChildren) {
    return;
  }
  children++;
  if (!fork()) {
    for (;;) {
      pause();
    }
  }
}

// A process that holds nothing, and that waits for the device if somebody has it open.
static void step_remove_device(void) {
  if (children == kMaxChildren) {
    return;
  }
  children++;
  if (!fork()) {
    close_range(STDERR_FILENO + 1, ~0U, 0);
    remove_mdev(uuids[1]);
    _exit(0);
  }
}

static void step_create_device(void) { create_mdev("mtty-1", uuids[1]); }

static void* wait_for_interrupt(void* unused) {
  uint64_t count;
  while (read(eventfds[0], &count, sizeof(count)) == sizeof(count)) {
  }
  return unused;
}

static void* use_without_end(void* unused) {
  for (;;) {
    for (unsigned i = 0; i < kDevices; i++) {
      write_register(devices[i], UART_SCR, (uint8_t)i);
      struct vfio_device_info info = {.argsz = sizeof(info)};
      ioctl(devices[i], VFIO_DEVICE_GET_INFO, &info);
    }
    for (unsigned i = 0; i < 2; i++) {
      const int device = ioctl(groups[i], VFIO_GROUP_GET_DEVICE_FD, uuids[i]);
      if (device >= 0) {
        close(device);
      }
    }
  }
  return unused;
}

static void step_start_thread(void) {
  pthread_t thread;
  if (threads < kMaxThreads &&
      !pthread_create(&thread, NULL, random_below(2) ? wait_for_interrupt : use_without_end,
                      NULL)) {
    threads++;
  }
}

// ---- The walk.

static const struct {
  unsigned weight;
  void (*take)(void);
} kSteps[] = {
    {3, step_open_container}, {3, step_open_group},
    {3, step_set_container},  {1, step_unset_container},
    {3, step_set_iommu},      {4, step_open_device},
    {3, step_attach},         {3, step_make_memory},
    {2, step_change_memory},  {8, step_map},
    {3, step_unmap},          {3, step_dirty_pages},
    {2, step_ask_device},     {2, step_make_eventfd},
    {6, step_set_irqs},       {4, step_use_uart},
    {1, step_reset},          {4, step_migrate},
    {4, step_use_stream},     {3, step_close},
    {2, step_duplicate},      {1, step_fork},
    {1, step_start_thread},   {1, step_create_device},
    {1, step_remove_device},
};

static void take_step(void) {
  static unsigned total;
  if (!total) {
    for (size_t i = 0; i < ARRAY_SIZE(kSteps); i++) {
      total += kSteps[i].weight;
    }
  }
  unsigned chosen = random_below(total);
  size_t i = 0;
  while (chosen >= kSteps[i].weight) {
    chosen -= kSteps[i++].weight;
  }
  kSteps[i].take();
}

static sem_t steps_left;  // until the process group kills itself

static void* kill_when_due(void* steps) {
  for (unsigned left = *(const unsigned*)steps; left > 0; left--) {
    while (sem_wait(&steps_left)) {
    }
  }
  kill(0, SIGKILL);
  return NULL;
}

_Noreturn void walk(const char* uuid, const char* spare, unsigned first_seed, unsigned kill_at) {
  uuids[0] = uuid;
  uuids[1] = spare;
  seed = first_seed;
  for (unsigned i = 0; i < kContainers; i++) containers[i] = -1;
  for (unsigned i = 0; i < kDevices; i++) devices[i] = -1;
  for (unsigned i = 0; i < kEventfds; i++) eventfds[i] = -1;
  groups[0] = groups[1] = -1;
  signal(SIGCHLD, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);

  pthread_t killer;
  if (sem_init(&steps_left, 0, 0) ||
      (kill_at && pthread_create(&killer, NULL, kill_when_due, &kill_at))) {
    perror("walk");
    exit(EXIT_FAILURE);
  }
  for (;;) {
    take_step();
    sem_post(&steps_left);
    if (write(STDOUT_FILENO, ".", 1) != 1) {
      exit(EXIT_FAILURE);  // Nobody counts any more.
    }
  }
}
