// Processes in step with each other. What fails ends the program with a message.
#ifndef UVFIO_TESTS_E2E_PEER_H_
#define UVFIO_TESTS_E2E_PEER_H_

#include <sys/types.h>

enum { kSecondsPerProcess = 60 };  // of which a guest without KVM needs a few

struct peer {
  pid_t pid;
  int socket;
};

// A child that does `run` and exits with 0.
struct peer spawn(void (*run)(void));
// In the peer: a step is done. Waits for the word to go on.
void reached(void);
// Waits until the peer has reached() its first step.
void await(struct peer peer);
// Lets it go on, and waits until it has reached() the next one.
void step(struct peer peer);
// Lets it go on, or has let it already, and waits until it has exited.
void finish(struct peer peer);
// Kills it.
void kill_peer(struct peer peer);

// SCM_RIGHTS, two at once.
void send_fds(int socket, const int fds[2]);
void receive_fds(int socket, int fds[2]);

// Takes CAP_IPC_LOCK away from this process and limits its locked memory.
void limit_locked_memory(unsigned bytes);

#endif  // UVFIO_TESTS_E2E_PEER_H_
