// What checks need before they can start: the device under test, and VFIO objects in a given state.
#ifndef UVFIO_TESTS_CONFORMANCE_FIXTURE_H_
#define UVFIO_TESTS_CONFORMANCE_FIXTURE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../../include/uvfio/vfio_compat.h"

enum { kPage = 4096 };

#define MDEV_DEVICES "/sys/bus/mdev/devices"

// NULL, but not to the compiler, which refuses it where the C library wants an object.
extern void* const null_pointer;

// A user program climbs these one by one.
enum stage {
  kOpened,    // A container and a group that do not know each other.
  kAttached,  // The group is in the container.
  kType1,     // SET_IOMMU(TYPE1).
  kType1v2,   // SET_IOMMU(TYPE1v2).
  kDevice,    // As kType1v2, with a device fd.
};

struct vfio {
  int container;
  int group;
  int device;  // -1 before kDevice.
};

// Finds the mediated device under test: `uuid` if not NULL, else the first on the mdev bus.
bool find_device(const char* uuid);

// Its UUID, which is also its name for GET_DEVICE_FD.
const char* device_name(void);

// The path of the node of a device's group.
const char* group_path(const char* uuid);

// The number of a device's group, as text.
const char* group_number(const char* uuid);

// Opens everything up to `stage` for the device under test, or gives up.
struct vfio open_vfio(enum stage stage);

// The same for another device.
struct vfio open_vfio_of(const char* uuid, enum stage stage);

// Closes what is open, device first.
void close_vfio(struct vfio* vfio);

int open_container(void);
int open_group(void);

long set_container(int group, int container);
int get_device_fd(int group);

// How many more mappings the container takes, from its DMA_AVAIL capability. A negative errno on
// failure.
long dma_available(int container);

// Reads and clears an eventfd that may be quiet: how often it was signalled.
uint64_t take_signals(int eventfd);
int make_eventfd(void);

// VFIO_DEVICE_SET_IRQS's argument with room for its payload.
union irq_set {
  struct vfio_irq_set header;
  char bytes[sizeof(struct vfio_irq_set) + 8];
};

// Sets one eventfd as the trigger of an interrupt.
long set_trigger(int device, uint32_t index, int eventfd);

// A device's register block.
uint64_t region_offset(unsigned index);
uint8_t read8(int device, unsigned region, uint64_t offset);
void write8(int device, unsigned region, uint64_t offset, uint8_t value);

// Has a copy of every open file held by another process until release_holder().
struct holder {
  pid_t pid;
  int release;  // Closing it lets the process go.
};
struct holder fork_holder(void);
void release_holder(struct holder* holder);

#endif  // UVFIO_TESTS_CONFORMANCE_FIXTURE_H_
