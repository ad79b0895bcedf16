// The guest's side of nvme_guest: init of a User-Mode Linux, which makes block I/O as it is told. A
// line of standard input
//   DEVICE read|write random|sequential sleep|poll BYTES DEPTH MILLISECONDS
// (sleep: until the disk's interrupt; poll: the disk's driver looks for completions itself)
// is answered by a line "done OPERATIONS NANOSECONDS INTERRUPTS" or "error TEXT"; the end of the
// input powers the machine off.
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/time.h>
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
  char* memory;     // registered with the ring, `bytes` for each operation
  struct io_uring ring;
};

static volatile sig_atomic_t over;

static void end_of_time(int signal) {
  (void)signal;
  over = 1;
}

// To look at the clock would be a system call for each round.
static void start_time(unsigned milliseconds) {
  const struct sigaction action = {.sa_handler = end_of_time};
  sigaction(SIGALRM, &action, NULL);
  over = 0;
  const struct itimerval time = {
      .it_value = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000}};
  setitimer(ITIMER_REAL, &time, NULL);
}

// Operation `slot`, which has a piece of the memory.
static void begin(struct workplace* place, const struct load* load, unsigned slot, uint64_t block) {
  struct io_uring_sqe* entry = io_uring_get_sqe(&place->ring);
  char* const data = place->memory + (size_t)slot * load->bytes;
  if (load->direction[0] == 'w') {
    io_uring_prep_write_fixed(entry, 0, data, load->bytes, block * load->bytes, 0);
  } else {
    io_uring_prep_read_fixed(entry, 0, data, load->bytes, block * load->bytes, 0);
  }
  entry->flags |= IOSQE_FIXED_FILE;
  io_uring_sqe_set_data64(entry, slot);
}

// Keeps `depth` operations going for the time; what has ended is begun anew all at once.
static int generate(struct workplace* place, const struct load* load, struct result* result) {
  const int at_random = strcmp(load->order, "random") == 0;
  uint64_t next = 0;
  uint64_t done = 0;
  unsigned ready[kMostDepth];
  unsigned count = load->depth;
  for (unsigned slot = 0; slot < count; ++slot) ready[slot] = slot;
  unsigned in_flight = 0;
  start_time(load->milliseconds);
  const uint64_t start = now();
  for (;;) {
    if (!over) {
      for (unsigned i = 0; i < count; ++i)
        begin(place, load, ready[i], (at_random ? random_number() : next++) % place->blocks);
      in_flight += count;
    }
    if (in_flight == 0) break;
    const int status = io_uring_submit_and_wait(&place->ring, 1);
    if (status < 0 && status != -EINTR) {
      errno = -status;
      return fail("io_uring_submit_and_wait");
    }
    unsigned head = 0;
    struct io_uring_cqe* ended = NULL;
    count = 0;
    io_uring_for_each_cqe(&place->ring, head, ended) {
      if (ended->res != (int)load->bytes) {
        errno = ended->res < 0 ? -ended->res : EIO;
        return fail(load->direction);
      }
      ready[count++] = (unsigned)ended->user_data;
    }
    io_uring_cq_advance(&place->ring, count);
    in_flight -= count;
    done += count;
  }
  result->operations = done;
  result->nanoseconds = now() - start;
  return 0;
}

// A ring of one thread, which knows the memory and the device beforehand.
static int make_ring(struct workplace* place, const struct load* load) {
  struct io_uring_params parameters = {.flags =
                                           IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
  if (strcmp(load->wait, "poll") == 0) parameters.flags |= IORING_SETUP_IOPOLL;
  int status = io_uring_queue_init_params(kMostDepth, &place->ring, &parameters);
  if (status == 0) {
    const struct iovec memory = {place->memory, (size_t)load->depth * load->bytes};
    status = io_uring_register_buffers(&place->ring, &memory, 1);
    if (status == 0) status = io_uring_register_files(&place->ring, &place->device, 1);
    if (status != 0) io_uring_queue_exit(&place->ring);
  }
  if (status == 0) return 0;
  errno = -status;
  return fail("io_uring");
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
  place.memory = memory;
  if (status == 0 && (status = make_ring(&place, load)) == 0) {
    // nvme0n1's are nvme0q0, nvme0q1; ubda's is ubd.
    const char* name = strncmp(load->device, "ubd", 3) == 0 ? "ubd" : "nvme";
    const uint64_t before = interrupts_of(name);
    status = generate(&place, load, result);
    result->interrupts = interrupts_of(name) - before;
    io_uring_queue_exit(&place.ring);
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
