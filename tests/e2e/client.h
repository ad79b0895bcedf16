// What a VFIO program does with a mediated serial card (mtty), in a few calls. No uvfio in it: only
// <linux/vfio.h> and sysfs.
#ifndef UVFIO_TESTS_E2E_CLIENT_H_
#define UVFIO_TESTS_E2E_CLIENT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct client {
  int container;
  int group;
  int device;
};

// The node of a device's group, /dev/vfio/<number>. False if there is no such device.
bool group_path(const char* uuid, char* path, size_t size);

// Opens container, group and device, and sets a type1v2 IOMMU. On failure says on standard error
// what failed, and leaves nothing open.
bool open_client(struct client* client, const char* uuid);
void close_client(struct client* client);

// Each says on standard error what failed.
bool map_dma(int container, void* memory, uint64_t iova, uint64_t size);
bool unmap_dma(int container, uint64_t iova, uint64_t size);
bool get_device_info(int device);
bool set_trigger(int device, uint32_t index, int eventfd);

// Sends a byte through the UART and reads it back; no interrupts.
bool loop_back(int device, uint8_t byte);

// Offset of a register of the UART in the device file.
uint64_t uart_register(unsigned number);

// Writes to sysfs: create or remove a device. -1 and errno on failure.
int create_mdev(const char* type, const char* uuid);
int remove_mdev(const char* uuid);
bool mdev_exists(const char* uuid);

// A device from beginning to end: open, map, loop back, unmap, close.
bool use_device(const char* uuid);

// Walks at random through the states of VFIO's objects until it is killed. After each step writes a
// byte to standard output. At step `kill_at`, a thread kills the process group (0: never).
// `spare` is the UUID of a device that the walk may create and remove.
void walk(const char* uuid, const char* spare, unsigned seed, unsigned kill_at);

#ifdef __cplusplus
}
#endif

#endif  // UVFIO_TESTS_E2E_CLIENT_H_
