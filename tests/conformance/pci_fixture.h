// What checks of direct PCI devices start from: educational devices (1234:11e8, "edu") that are
// bound to vfio-pci, at least two with an IOMMU group each.
#ifndef UVFIO_TESTS_CONFORMANCE_PCI_FIXTURE_H_
#define UVFIO_TESTS_CONFORMANCE_PCI_FIXTURE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fixture.h"

// Looks for them; false: there are not enough.
bool find_pci_devices(void);

// The n-th device that is alone in its group, 0 or 1: its address, and its group's node.
const char* pci_name(unsigned n);
const char* pci_group_path(unsigned n);

// Two functions of one group that are both educational; NULL if there are none.
const char* shared_name(unsigned n);
// An educational device whose group has a device with a host driver in it; NULL if there is none.
const char* busy_name(void);

// <sysfs directory of the PCI device>/<file>, and the node of its group.
const char* pci_file(const char* name, const char* file);
const char* node_of(const char* name);

// As open_vfio(), for the n-th device.
struct vfio open_pci(unsigned n, enum stage stage);
int open_pci_group(unsigned n);
int get_pci_device(int group, const char* name);

// ---- type1 with memory behind it

enum {
  kR = VFIO_DMA_MAP_FLAG_READ,
  kW = VFIO_DMA_MAP_FLAG_WRITE,
  kRW = kR | kW,
};

long map_memory(int container, uint32_t flags, const void* memory, uint64_t iova, uint64_t size);
// Returns what UNMAP_DMA said it unmapped in `*size`.
long unmap_memory(int container, uint32_t flags, uint64_t iova, uint64_t* size);
// The same, to start anew.
void unmap_all(int container);

// Pages of this process: anonymous, private, readable and writable.
char* make_pages(size_t pages);

// Takes CAP_IPC_LOCK away from this process and limits its locked memory.
void limit_locked_memory(size_t pages);

// ---- the device's registers

enum {
  kCommand = 4,
  kCommandMemory = 2,
  kCommandMaster = 4,
};

long read_config(int device, uint64_t offset, void* data, size_t size);
long write_config(int device, uint64_t offset, const void* data, size_t size);
void set_command(int device, uint16_t command);
uint32_t read_register(int device, uint64_t offset);
void write_register(int device, uint64_t offset, uint32_t value);

// Copies `size` bytes between memory at `iova` and the device's buffer (4 KiB at 0x40000), waits
// for the end. Needs memory decoding and bus mastering.
void device_reads(int device, uint64_t iova, uint32_t buffer, uint32_t size);
void device_writes(int device, uint64_t iova, uint32_t buffer, uint32_t size);

#endif  // UVFIO_TESTS_CONFORMANCE_PCI_FIXTURE_H_
