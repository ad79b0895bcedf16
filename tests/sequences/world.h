// What a sequence of calls works on: a few containers, groups and device files, open or not, and
// the mediated devices behind them.
#ifndef UVFIO_TESTS_SEQUENCES_WORLD_H_
#define UVFIO_TESTS_SEQUENCES_WORLD_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chance.h"
#include "record.h"

enum {
  kContainers = 2,
  kGroups = 5,
  kDevices = 5,
  kMdevs = 4,  // The first one is there from the beginning, and stays.
  kRanges = 16,
  kPage = 4096,
  kReadable = 8192,     // Bytes of a bitmap that may be written.
  kReserved = 1 << 29,  // Address space behind it that may not.
};

struct mdev {
  char uuid[40];  // Or a PCI address.
  bool exists;    // Or is bound to vfio-pci.
  bool informed;  // DEVICE_GET_INFO was called since it was made.
  char node[32];  // Of its group.
};

struct open_group {
  int fd;  // -1: closed.
  unsigned mdev;
};

struct open_device {
  int fd;
  unsigned mdev;
};

struct range {
  uint64_t iova, size;
};

struct world {
  struct chance chance;
  struct record record;
  int containers[kContainers];
  struct open_group groups[kGroups];
  struct open_device devices[kDevices];
  struct mdev mdevs[kMdevs];
  // They are direct PCI devices: memory is looked at when it is mapped. The reference kernel is
  // older, so what the two versions answer differently is left out.
  bool direct;
  struct range ranges[kRanges];  // Of the latest maps, whether they succeeded or not.
  unsigned next_range;
  uint64_t unit;    // Granule of IOVAs and sizes, in bytes.
  char* bitmap;     // kReadable bytes, then kReserved without access.
  char* zeros;      // A page that cannot be written.
  char* argument;   // A page for arguments, and the same page where it cannot be written; behind
  char* read_only;  // the first one is nothing.
};

// Finds the mediated device that is there, or all direct ones; false: there are too few.
bool discover(struct world* world, bool direct);

// Everything closed, no mediated devices of our own.
void start_sequence(struct world* world, uint64_t seed);
void end_sequence(struct world* world);

// Each of these makes one random call of its kind and notes it.
void call_type1(struct world* world);
void call_dirty(struct world* world);
void call_tracking(struct world* world);  // Only starting and stopping.
void call_container(struct world* world);
void call_group(struct world* world);
void call_mend(struct world* world);
void call_device(struct world* world);
void call_hotplug(struct world* world);

// Climbs from nothing to a container with the first device's group and type1, as programs do.
void set_up(struct world* world);

// Puts an argument where a call reads it: usually a good place, now and then one that the call may
// not read or may not write. `*how` says which.
void* place(struct world* world, const void* argument, size_t size, const char** how);

// What the call left of the argument that was placed last.
void take_back(struct world* world, void* argument, size_t size);

void close_device(struct world* world, unsigned slot);

// What MAP_DMA is to map: client memory with a hole and pages that cannot be written or used, of
// both kinds (private and shared); now and then what can be no memory at all.
uint64_t pick_memory(struct world* world);

// An IOVA and a size that have a good chance to meet what was mapped before.
struct range pick_range(struct world* world);

#endif  // UVFIO_TESTS_SEQUENCES_WORLD_H_
