// Address spaces that end before what was made of them: mappings of a process that exits, is killed
// or execs while others keep the container; containers that change hands. Knows only the kernel's
// VFIO, and runs wherever vfio-pci has an educational device (edu) that is alone in its IOMMU
// group. Prints what comes of it, one line each.
//
// Usage: address_space [CASE ...]      Root: it gives up CAP_IPC_LOCK to see who pays for what.
#include <fcntl.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "address_space.h"
#include "peer.h"

// Each case starts without these.
const char* case_name;
struct edu edu;
static int file;         // a memfd of kSize
static uint8_t* memory;  // of this process

// ---- Starting and ending

static uint8_t* map_file(void) {
  void* const bytes = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (bytes == MAP_FAILED) die("mmap");
  return bytes;
}
static uint8_t* make_private(void) {
  void* const bytes = mmap(NULL, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (bytes == MAP_FAILED) die("mmap");
  return bytes;
}

// Children inherit all of it. They map the file elsewhere, as `memory` is taken.
static void start(void) {
  edu = edu_open(edu_find());
  limit_locked_memory(kLimit * kPage);
  file = memfd_create("memory", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, kSize) != 0) die("memfd");
  memory = map_file();
}

// The group has its next client, who finds everything as new.
static void report_next_client(void) {
  edu = edu_open(edu_find());
  uint8_t* const bytes = make_private();
  report("next.map", edu_map(&edu, 0, bytes, kIova, kSize));
  report_dma("next.dma", kIova, bytes);
  report_room("next.room");
  report_unmap("next.unmap", 0, kIova);
  edu_close(&edu);
}

static void release(void) {
  edu_close(&edu);
  report_next_client();
}

// ---- The mapper exits

static void map_shared_and_exit(void) {
  report("child.map", edu_map(&edu, 0, map_file(), kIova, kSize));
  report_room("child.room");
}

static void mapper_exits(void) {
  start();
  finish(spawn(map_shared_and_exit));
  report_room("room");
  report_dma("dma", kIova, memory);
  report("overlap", edu_map(&edu, 0, memory, kIova, kPage));
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  report_dma("dma.unmapped", kIova, memory);
  release();
}

// A process without its first thread is one like any other.
static void* map_when_alone(void* first) {
  pthread_join(*(pthread_t*)first, NULL);
  map_shared_and_exit();
  exit(0);
}

static void end_leader(void) {
  static pthread_t leader;
  pthread_t other;
  leader = pthread_self();
  if (pthread_create(&other, NULL, map_when_alone, &leader) != 0) die("pthread_create");
  pthread_exit(NULL);
}

static void thread_maps(void) {
  start();
  finish(spawn(end_leader));
  report_room("room");
  report_dma("dma", kIova, memory);
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  release();
}

// All stays mapped until the files close.
static void mapper_exits_mapped(void) {
  start();
  finish(spawn(map_shared_and_exit));
  report("map", edu_map(&edu, 0, memory, kSecond, kSize));
  release();
}

static void map_private_and_exit(void) {
  uint8_t* const bytes = make_private();
  report("child.map", edu_map(&edu, 0, bytes, kIova, kSize));
  report_dma("child.dma", kIova, bytes);
  report_room("child.room");
}

// Here the pages of the dead live on in the kernel, as the device has them. Not so in uvfio, which
// tells nobody.
static void private_mapper_exits(void) {
  start();
  finish(spawn(map_private_and_exit));
  report_room("room");
  report_dma_ends("dma", kIova);
  report("overlap", edu_map(&edu, 0, memory, kIova, kPage));
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  finish(spawn(map_private_and_exit));
  release();
}

// ---- fork

static void forked(void) {
  report_room("child.room");
  report("child.map", edu_map(&edu, 0, make_private(), kSecond, kSize));
  report_room("child.room.mapped");
  reached();
  report_unmap("child.unmap", 0, kIova);
  report_room("child.room.unmapped");
  reached();
  report_room("child.room.parent_unmapped");
}

static void forks(void) {
  start();
  report("map", edu_map(&edu, 0, make_private(), kIova, kSize));
  report_room("room");
  const struct peer child = spawn(forked);
  await(child);
  report_room("room.child_mapped");
  step(child);
  report_room("room.child_unmapped");
  report_unmap("unmap", 0, kSecond);
  report_room("room.unmapped");
  finish(child);
  release();
}

// What was one page until the fork is two, and each process' mapping means its own.
static void map_own_copy(void) {
  memset(memory, 0x11, kSize);
  report("child.map", edu_map(&edu, 0, memory, kSecond, kSize));
  report_dma("child.dma", kSecond, memory);
  reached();
  say("child.kept", "%s", memory[kSize - 1] == 0x11 ? "yes" : "no");
}

static void fork_copies(void) {
  start();
  memory = make_private();
  memset(memory, 0x22, kSize);
  report("map", edu_map(&edu, 0, memory, kIova, kSize));
  const struct peer child = spawn(map_own_copy);
  await(child);
  say("kept", "%s",
      memory[0] == 0x22 && memory[kPage] == 0x22 && memory[kSize - 1] == 0x22 ? "yes" : "no");
  report_dma("dma", kIova, memory);
  finish(child);
  report_dma("dma.alone", kIova, memory);
  report_unmap("unmap", 0, kIova);
  report_unmap("unmap.childs", 0, kSecond);
  release();
}

// ---- exec

// Starts this program anew, in the same process and with the same open files, as the image of this
// case.
static void exec_image(void) {
  const int fds[] = {edu.container, edu.group, edu.device, file};
  char numbers[4][12];
  for (int i = 0; i < 4; ++i) {
    if (fcntl(fds[i], F_SETFD, 0) != 0) die("F_SETFD");
    snprintf(numbers[i], sizeof numbers[i], "%d", fds[i]);
  }
  execl("/proc/self/exe", "address_space", "--image", case_name, numbers[0], numbers[1], numbers[2],
        numbers[3], NULL);
  die("exec");
}

static void execs(void) {
  start();
  report("map", edu_map(&edu, 0, memory, kIova, kSize));
  report("map.private", edu_map(&edu, 0, make_private(), kSecond, kSize));
  report_room("room");
  exec_image();
}
static void execs_image(void) {
  report_room("image.room");
  report_dma("image.dma", kIova, memory);
  report_dma_ends("image.dma.private", kSecond);
  report("image.overlap", edu_map(&edu, 0, memory, kIova, kSize));
  report_unmap("image.unmap", 0, kIova);
  report_unmap("image.unmap.private", 0, kSecond);
  report_room("image.room.unmapped");
  report("image.map", edu_map(&edu, 0, memory, kSecond, kSize));
  report_room("image.room.mapped");
  report_dma("image.dma.mapped", kSecond, memory);
  report_dma("image.dma.unmapped", kIova, memory);
  release();
}

// As a hypervisor that replaces itself does it.
static void updates_by_exec(void) {
  start();
  report("map", edu_map(&edu, 0, memory, kIova, kSize));
  report_unmap("invalidate", VFIO_DMA_UNMAP_FLAG_VADDR, kIova);
  report_room("room");
  exec_image();
}
static void updates_by_exec_image(void) {
  report_dma("image.dma.invalid", kIova, memory);
  report_room("image.room.invalid");
  report("image.update", edu_map(&edu, VFIO_DMA_MAP_FLAG_VADDR, memory, kIova, kSize));
  report_room("image.room");
  report_dma("image.dma", kIova, memory);
  report_unmap("image.unmap", 0, kIova);
  report_room("image.room.unmapped");
  release();
}

// ---- Descriptors sent to another process

static int channel[2];

static void receiver(void) {
  int fds[2];
  receive_fds(channel[0], fds);
  edu = (struct edu){.container = fds[0], .group = -1, .device = fds[1], .event = -1};
  reached();
  limit_locked_memory(kLimit * kPage);
  edu_find_regions(&edu);
  edu_enable_dma(&edu);
  uint8_t* const bytes = make_private();
  report_room("receiver.room");
  report("receiver.overlap", edu_map(&edu, 0, bytes, kSecond, kSize));
  report("receiver.map", edu_map(&edu, 0, bytes, kIova, kSize));
  report_room("receiver.room.mapped");
  report_dma("receiver.dma", kIova, bytes);
  report_dma_ends("receiver.dma.senders", kSecond);
}  // exits with everything open

static void sender(void) {
  start();
  report("sender.map", edu_map(&edu, 0, memory, kSecond, kSize));
  report_room("sender.room");
  send_fds(channel[1], (int[]){edu.container, edu.device});
  edu_close(&edu);
}

static void sends(void) {
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) die("socketpair");
  const struct peer to = spawn(receiver);
  const struct peer from = spawn(sender);
  await(to);
  finish(from);
  report("group.held", edu_open_node(edu_find()));
  finish(to);
  limit_locked_memory(kLimit * kPage);
  report_next_client();
}

// ---- Another process gives the address

static void first_owner(void) {
  uint8_t* const bytes = map_file();
  report("child.map", edu_map(&edu, 0, bytes, kIova, kSize));
  report_room("child.room");
  reached();
  report_room("child.room.invalid");
  reached();
  report_room("child.room.updated");
  if (munmap(bytes, kSize) != 0) die("munmap");
  reached();
}

static void updates(void) {
  start();
  const struct peer child = spawn(first_owner);
  await(child);
  report_unmap("invalidate", VFIO_DMA_UNMAP_FLAG_VADDR, kIova);
  report_dma("dma.invalid", kIova, memory);
  report_room("room.invalid");
  step(child);
  report("update", edu_map(&edu, VFIO_DMA_MAP_FLAG_VADDR, memory, kIova, kSize));
  report_room("room.updated");
  step(child);
  report_dma("dma.child_unmapped", kIova, memory);
  finish(child);
  report_dma("dma.child_gone", kIova, memory);
  report_room("room.child_gone");
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  release();
}

static void updates_after_exit(void) {
  start();
  finish(spawn(map_shared_and_exit));
  report_unmap("invalidate", VFIO_DMA_UNMAP_FLAG_VADDR, kIova);
  report_dma("dma.invalid", kIova, memory);
  report_room("room.invalid");
  report("update", edu_map(&edu, VFIO_DMA_MAP_FLAG_VADDR, memory, kIova, kSize));
  report_room("room.updated");
  report_dma("dma", kIova, memory);
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  release();
}

// ---- The mapper is killed while the device works

static int transfers;
static atomic_bool* stop;
static bool private;

static void victim(void) {
  report("child.map", edu_map(&edu, 0, private ? make_private() : map_file(), kIova, kSize));
  reached();
}

static void drive(void) {
  while (!atomic_load(stop)) {
    if (!edu_fetch(&edu, kIova, kPage) || !edu_store(&edu, kIova + kPage, kPage)) die("interrupt");
    if (eventfd_write(transfers, 1) != 0) die("eventfd");
  }
}

static void await_transfers(unsigned number) {
  eventfd_t count;
  for (unsigned i = 0; i < number; ++i) {
    if (eventfd_read(transfers, &count) != 0) die("eventfd");
  }
}

static void kill_mapper(void) {
  start();
  stop = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  transfers = eventfd(0, EFD_CLOEXEC);
  if (stop == MAP_FAILED || transfers < 0) die("eventfd");
  const struct peer child = spawn(victim);
  await(child);
  const struct peer driver = spawn(drive);
  await_transfers(3);
  kill_peer(child);
  await_transfers(4);  // of which the first may have been before
  atomic_store(stop, true);
  finish(driver);
  report_room("room");
}

static void mapper_is_killed(void) {
  kill_mapper();
  report_dma("dma", kIova, memory);
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  release();
}

static void private_mapper_is_killed(void) {
  private = true;
  kill_mapper();
  report_dma_ends("dma", kIova);
  report_unmap("unmap", 0, kIova);
  report_room("room.unmapped");
  release();
}

// ----

static const struct {
  const char* name;
  void (*run)(void);
  void (*image)(void);  // after exec_image
} kCases[] = {
    {"mapper_exits", mapper_exits, NULL},
    {"mapper_exits_mapped", mapper_exits_mapped, NULL},
    {"thread_maps", thread_maps, NULL},
    {"private_mapper_exits", private_mapper_exits, NULL},
    {"forks", forks, NULL},
    {"fork_copies", fork_copies, NULL},
    {"execs", execs, execs_image},
    {"updates_by_exec", updates_by_exec, updates_by_exec_image},
    {"sends", sends, NULL},
    {"updates", updates, NULL},
    {"updates_after_exit", updates_after_exit, NULL},
    {"mapper_is_killed", mapper_is_killed, NULL},
    {"private_mapper_is_killed", private_mapper_is_killed, NULL},
};
enum { kCaseCount = sizeof kCases / sizeof kCases[0] };

static bool is_among(char* names[], const char* name) {
  for (; *names != NULL; ++names) {
    if (strcmp(*names, name) == 0) return true;
  }
  return false;
}

// The second half of exec_image.
static int run_image(char* arguments[]) {
  edu = (struct edu){.container = atoi(arguments[1]),
                     .group = atoi(arguments[2]),
                     .device = atoi(arguments[3]),
                     .event = -1};
  file = atoi(arguments[4]);
  limit_locked_memory(kLimit * kPage);  // exec gave the capability back
  edu_find_regions(&edu);
  edu_enable_dma(&edu);
  memory = map_file();
  for (int i = 0; i < kCaseCount; ++i) {
    if (kCases[i].image == NULL || strcmp(kCases[i].name, arguments[0]) != 0) continue;
    case_name = kCases[i].name;
    kCases[i].image();
    return 0;
  }
  return 2;
}

int main(int argc, char* argv[]) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 7 && strcmp(argv[1], "--image") == 0) return run_image(argv + 2);
  if (edu_find() == NULL) {
    fputs("vfio-pci has no edu that is alone in its group\n", stderr);
    return 1;
  }
  bool failed = false;
  for (int i = 0; i < kCaseCount; ++i) {
    if (argc > 1 && !is_among(argv + 1, kCases[i].name)) continue;
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(kSecondsPerProcess);
      case_name = kCases[i].name;
      kCases[i].run();
      return 0;
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
      printf("%s FAILED with %#x\n", kCases[i].name, (unsigned)status);
      failed = true;
    }
  }
  return failed ? 1 : 0;
}
