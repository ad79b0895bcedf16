// QEMU's educational PCI device (edu, 1234:11e8) driven through VFIO; nothing but the kernel's interface. What a client
// has no answer to ends the program: a message on stderr, status 1. Not thread-safe.
#ifndef UVFIO_TESTS_E2E_EDU_H_
#define UVFIO_TESTS_E2E_EDU_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  kEduIdentification = 0x00,
  kEduLiveness = 0x04,
  kEduFactorial = 0x08,
  kEduStatus = 0x20,
  kEduInterruptStatus = 0x24,
  kEduAcknowledge = 0x64,
};

// Descriptors, and where the device's regions begin in `device`.
struct edu {
  int container, group, device;
  uint64_t bar, config;
  int event;  // the eventfd of its interrupt
};

// perror(what), status 1.
_Noreturn void die(const char* what);

// The address (0000:00:01.0) of the first edu that vfio-pci has and that is alone in its IOMMU group; NULL: there is none.
const char* edu_find(void);

// Opens the node of the device's group. -1: errno says why not.
int edu_open_node(const char* name);
// The first steps: a container and the group of the device; the group in the container, with TYPE1v2; the device.
struct edu edu_open_group(const char* name);
bool edu_is_viable(const struct edu* edu);
void edu_attach(struct edu* edu);
void edu_open_device(struct edu* edu, const char* name);
// All of them, and edu_enable_dma.
struct edu edu_open(const char* name);
// Where the regions are, if `device` came from elsewhere.
void edu_find_regions(struct edu* edu);
void edu_close(struct edu* edu);

uint64_t edu_read(const struct edu* edu, uint64_t reg, size_t width);
void edu_write(const struct edu* edu, uint64_t reg, uint64_t value, size_t width);

// VFIO_DEVICE_SET_IRQS for the first interrupt of `index`. `fd` -1: no data, which for the trigger takes it away.
void edu_set_irq(const struct edu* edu, uint32_t index, uint32_t action, int fd);
// Waits for `event`, at most 10 s.
bool edu_interrupt_came(const struct edu* edu);

// A new `event` behind MSI, and bus mastering.
void edu_enable_dma(struct edu* edu);
// Copies `size` bytes, at most 4096, between memory and the device's buffer. True: the interrupt of its end came. Whether
// the bytes did, the device does not tell.
bool edu_fetch(const struct edu* edu, uint64_t iova, size_t size);
bool edu_store(const struct edu* edu, uint64_t iova, size_t size);

// MAP_DMA with `flags` (VFIO_DMA_MAP_FLAG_*), readable and writable if 0. 0, or -1 with errno.
long edu_map(const struct edu* edu, uint32_t flags, const void* memory, uint64_t iova, uint64_t size);
// UNMAP_DMA: how much it unmapped, or -1 with errno.
int64_t edu_unmap(const struct edu* edu, uint32_t flags, uint64_t iova, uint64_t size);

#endif  // UVFIO_TESTS_E2E_EDU_H_
