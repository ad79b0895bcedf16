// A VFIO program in the states that tests need:
//
//   e2e_client use UUID
//       everything once, from open to close
//   e2e_client hold UUID
//       opens the device, says "ready", waits for the end of its input
//   e2e_client orphan UUID
//       says "ready", exits with 7; its child has the device and waits as above
//   e2e_client orphans UUID
//       the same with a second child, which has nothing and waits in the removal of the device
//   e2e_client remove_own UUID
//       exits with 7 while a thread waits in the removal of the device that this process has open
//   e2e_client walk UUID SPARE SEED KILL_AT
//       see walk() in client.h

#include <linux/vfio.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client.h"

enum { kOrphanStatus = 7 };

static void say_ready(void) {
  puts("ready");
  fflush(stdout);
}

static void wait_for_end_of_input(void) {
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

static int hold(char* uuid) {
  struct client client;
  if (!open_client(&client, uuid)) {
    return EXIT_FAILURE;
  }
  say_ready();
  wait_for_end_of_input();
  return EXIT_SUCCESS;
}

static void* remove_device(void* uuid) {
  remove_mdev(uuid);
  return NULL;
}

// The removal has begun when the device can no longer be had.
static void wait_until_unlisted(int group, const char* uuid) {
  for (int fd; (fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, uuid)) >= 0;) {
    close(fd);
    sched_yield();
  }
}

static int orphans(char* uuid) {
  struct client client;
  if (!open_client(&client, uuid)) {
    return EXIT_FAILURE;
  }
  // This one first: whoever ends orphans by number meets it first.
  if (!fork()) {
    close_range(STDERR_FILENO + 1, ~0U, 0);
    remove_device(uuid);
    _exit(EXIT_SUCCESS);
  }
  if (!fork()) {
    wait_for_end_of_input();
    _exit(EXIT_SUCCESS);
  }
  wait_until_unlisted(client.group, uuid);
  say_ready();
  return kOrphanStatus;
}

static int remove_own(char* uuid) {
  struct client client;
  pthread_t thread;
  if (!open_client(&client, uuid) || pthread_create(&thread, NULL, remove_device, uuid)) {
    return EXIT_FAILURE;
  }
  wait_until_unlisted(client.group, uuid);
  return kOrphanStatus;
}

static int orphan(char* uuid) {
  struct client client;
  if (!open_client(&client, uuid)) {
    return EXIT_FAILURE;
  }
  if (!fork()) {
    wait_for_end_of_input();
    return EXIT_SUCCESS;
  }
  say_ready();
  return kOrphanStatus;
}

static int use(char* uuid) { return use_device(uuid) ? EXIT_SUCCESS : EXIT_FAILURE; }

static const struct {
  const char* name;
  int (*run)(char* uuid);
} kModes[] = {
    {"use", use},
    {"hold", hold},
    {"orphan", orphan},
    {"orphans", orphans},
    {"remove_own", remove_own},
};

int main(int argc, char** argv) {
  const char* const mode = argc > 1 ? argv[1] : "";
  for (size_t i = 0; argc == 3 && i < sizeof(kModes) / sizeof(kModes[0]); i++) {
    if (!strcmp(mode, kModes[i].name)) {
      return kModes[i].run(argv[2]);
    }
  }
  if (argc == 6 && !strcmp(mode, "walk")) {
    walk(argv[2], argv[3], (unsigned)strtoul(argv[4], NULL, 10),
         (unsigned)strtoul(argv[5], NULL, 10));
  }
  fprintf(stderr, "usage: e2e_client MODE UUID | walk UUID SPARE SEED KILL_AT\n");
  return 2;
}
