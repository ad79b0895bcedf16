#include "peer.h"

#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "edu.h"

static int parent = -1;  // the other end of our own peer's socket

static void pass(int socket) {
  if (send(socket, "", 1, MSG_NOSIGNAL) != 1) die("the other process");
}
static void take(int socket) {
  char byte;
  if (recv(socket, &byte, 1, 0) != 1) die("the other process");
}

struct peer spawn(void (*run)(void)) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) die("socketpair");
  const pid_t pid = fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    alarm(kSecondsPerProcess);  // is not inherited
    close(ends[0]);
    parent = ends[1];
    run();
    exit(0);
  }
  close(ends[1]);
  return (struct peer){pid, ends[0]};
}

void reached(void) {
  pass(parent);
  take(parent);
}

void await(struct peer peer) { take(peer.socket); }

void step(struct peer peer) {
  pass(peer.socket);
  take(peer.socket);
}

static void wait_for(struct peer peer, int expected) {
  int status;
  if (waitpid(peer.pid, &status, 0) != peer.pid) die("waitpid");
  if (status != expected) {
    fprintf(stderr, "a child ended with %#x\n", (unsigned)status);
    exit(1);
  }
  close(peer.socket);
}

void finish(struct peer peer) {
  send(peer.socket, "", 1, MSG_NOSIGNAL);  // it may have ended, without waiting for the word
  wait_for(peer, 0);
}

void kill_peer(struct peer peer) {
  if (kill(peer.pid, SIGKILL) != 0) die("kill");
  wait_for(peer, SIGKILL);
}

void send_fds(int socket, const int fds[2]) {
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr header;
  } control = {.header = {.cmsg_level = SOL_SOCKET,
                          .cmsg_type = SCM_RIGHTS,
                          .cmsg_len = CMSG_LEN(2 * sizeof(int))}};
  memcpy(CMSG_DATA(&control.header), fds, 2 * sizeof(int));
  struct iovec data = {"", 1};
  const struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (sendmsg(socket, &message, 0) != 1) die("sendmsg");
}

void receive_fds(int socket, int fds[2]) {
  union {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr header;
  } control;
  char byte;
  struct iovec data = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 ||
      control.header.cmsg_len != CMSG_LEN(2 * sizeof(int))) {
    die("recvmsg");
  }
  memcpy(fds, CMSG_DATA(&control.header), 2 * sizeof(int));
}

void limit_locked_memory(unsigned bytes) {
  const struct rlimit limit = {bytes, bytes};
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0) die("setrlimit");
  if (syscall(SYS_capget, &header, data) != 0) die("capget");
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  if (syscall(SYS_capset, &header, data) != 0) die("capset");
}
