// The guest's side of nvme_guest: init of a User-Mode Linux, which makes block I/O as it is told. A
// line of standard input
//   DEVICE read|write random|sequential sleep|poll BYTES DEPTH MILLISECONDS
// is answered by a line "done OPERATIONS NANOSECONDS INTERRUPTS" or "error TEXT"; the end of the
// input powers the machine off.
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { kMostDepth = 128, kMostBytes = 1 << 20 };

struct load {
  char device[32];
  char direction[16];
  char order[16];
  char wait[16];
  unsigned bytes;
  unsigned depth;
  unsigned milliseconds;
};

struct result {
  uint64_t operations;
  uint64_t nanoseconds;
  uint64_t interrupts;
};

static int fail(const char* what) {
  printf("error %s: %s\n", what, strerror(errno));
  return -1;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t random_number(void) {
  static uint64_t state = 1;
  state = state * 6364136223846793005 + 1442695040888963407;
  return state >> 33;
}

// Of all lines of /proc/interrupts with `name` in them; there is one CPU.
static uint64_t interrupts_of(const char* name) {
  FILE* file = fopen("/proc/interrupts", "r");
  if (file == NULL) return 0;
  char line[256];
  uint64_t sum = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    const char* colon = strchr(line, ':');
    if (colon != NULL && strstr(line, name) != NULL) sum += strtoull(colon + 1, NULL, 10);
  }
  fclose(file);
  return sum;
}

// Requests go to the disk as they come.
static void no_scheduler(const char* device) {
  char path[64];
  snprintf(path, sizeof path, "/sys/block/%s/queue/scheduler", device);
  const int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0 || write(file, "none", 4) != 4) fail(path);
  if (file >= 0) close(file);
}

struct workplace {
  int device;
  uint64_t blocks;  // of `bytes`
  aio_context_t context;
  struct iocb blocks_of_io[kMostDepth];
  struct iocb* pointers[kMostDepth];
  struct io_event events[kMostDepth];
};

// Keeps `depth` operations going for the time; what has ended is begun anew all at once.
static int generate(struct workplace* place, const struct load* load, char* memory,
                    struct result* result) {
  const int writes = strcmp(load->direction, "write") == 0;
  const int at_random = strcmp(load->order, "random") == 0;
  const int polls = strcmp(load->wait, "poll") == 0;
  struct timespec no_time = {0, 0};
  uint64_t next = 0;
  unsigned ready = 0;
  for (; ready < load->depth; ++ready) place->pointers[ready] = &place->blocks_of_io[ready];
  const uint64_t begin = now();
  const uint64_t end = begin + (uint64_t)load->milliseconds * 1000000;
  unsigned in_flight = 0;
  uint64_t done = 0;
  for (;;) {
    if (now() >= end) ready = 0;
    for (unsigned i = 0; i < ready; ++i) {
      struct iocb* io = place->pointers[i];
      const uint64_t block = at_random ? random_number() % place->blocks : next++ % place->blocks;
      memset(io, 0, sizeof *io);
      io->aio_fildes = (uint32_t)place->device;
      io->aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      io->aio_buf = (uintptr_t)(memory + (uint64_t)(io - place->blocks_of_io) * load->bytes);
      io->aio_nbytes = load->bytes;
      io->aio_offset = (int64_t)(block * load->bytes);
    }
    for (unsigned begun = 0; begun < ready;) {
      const long count =
          syscall(SYS_io_submit, place->context, ready - begun, place->pointers + begun);
      if (count <= 0) return fail("io_submit");
      begun += (unsigned)count;
    }
    in_flight += ready;
    if (in_flight == 0) break;
    long count = 0;
    do {
      count = syscall(SYS_io_getevents, place->context, polls ? 0 : 1, kMostDepth, place->events,
                      polls ? &no_time : NULL);
      if (count < 0) return fail("io_getevents");
    } while (count == 0);
    ready = (unsigned)count;
    for (unsigned i = 0; i < ready; ++i) {
      if (place->events[i].res != (int64_t)load->bytes) {
        errno = place->events[i].res < 0 ? (int)-place->events[i].res : EIO;
        return fail(load->direction);
      }
      place->pointers[i] = (struct iocb*)(uintptr_t)place->events[i].obj;
    }
    in_flight -= ready;
    done += ready;
  }
  result->operations = done;
  result->nanoseconds = now() - begin;
  return 0;
}

static int measure(const struct load* load, struct result* result) {
  static struct workplace place;
  static char* memory;
  if (load->depth == 0 || load->depth > kMostDepth || load->bytes == 0 ||
      load->bytes > kMostBytes) {
    errno = EINVAL;
    return fail("load");
  }
  if (memory == NULL && posix_memalign((void**)&memory, 4096, 32 << 20) != 0) return fail("memory");
  if ((uint64_t)load->depth * load->bytes > 32 << 20) {
    errno = ENOMEM;
    return fail("load");
  }
  memset(memory, 0x5a, (size_t)load->depth * load->bytes);
  char path[64];
  snprintf(path, sizeof path, "/dev/%s", load->device);
  place.device = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (place.device < 0) return fail(path);
  uint64_t size = 0;
  int status = ioctl(place.device, BLKGETSIZE64, &size) == 0 ? 0 : fail(path);
  place.blocks = size / load->bytes;
  place.context = 0;
  if (status == 0 && syscall(SYS_io_setup, kMostDepth, &place.context) != 0)
    status = fail("io_setup");
  if (status == 0) {
    // nvme0n1's are nvme0q0, nvme0q1; ubda's is ubd.
    const char* name = strncmp(load->device, "ubd", 3) == 0 ? "ubd" : "nvme";
    const uint64_t before = interrupts_of(name);
    status = generate(&place, load, memory, result);
    result->interrupts = interrupts_of(name) - before;
    syscall(SYS_io_destroy, place.context);
  }
  close(place.device);
  return status;
}

int main(void) {
  if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("sys", "/sys", "sysfs", 0, NULL) != 0 ||
      mount("dev", "/dev", "devtmpfs", 0, NULL) != 0)
    fail("mount");
  no_scheduler("nvme0n1");
  no_scheduler("ubda");
  struct termios terminal;
  if (tcgetattr(0, &terminal) == 0) {
    terminal.c_lflag &= (tcflag_t) ~(ECHO);
    terminal.c_oflag &= (tcflag_t) ~(OPOST);
    tcsetattr(0, TCSANOW, &terminal);
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("ready\n");
  char line[256];
  while (fgets(line, sizeof line, stdin) != NULL) {
    struct load load;
    struct result result;
    if (strncmp(line, "off", 3) == 0) break;
    if (sscanf(line, "%31s %15s %15s %15s %u %u %u", load.device, load.direction, load.order,
               load.wait, &load.bytes, &load.depth, &load.milliseconds) != 7) {
      printf("error a line that is no load\n");
    } else if (measure(&load, &result) == 0) {
      printf("done %llu %llu %llu\n", (unsigned long long)result.operations,
             (unsigned long long)result.nanoseconds, (unsigned long long)result.interrupts);
    }
  }
  reboot(RB_POWER_OFF);
  return 0;
}
