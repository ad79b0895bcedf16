// Making and removing mediated devices through sysfs.
#ifndef UVFIO_TESTS_SEQUENCES_HOTPLUG_H_
#define UVFIO_TESTS_SEQUENCES_HOTPLUG_H_

#include "world.h"

#define MDEV_DEVICES "/sys/bus/mdev/devices"

// Finds the node of a device's group; false: there is no such device.
bool find_node(struct mdev* mdev);

// For direct devices: has vfio-pci take it whatever it is, and lets it.
bool override_driver(const struct mdev* mdev);
long bind_device(struct mdev* mdev);

// The results of write(2), or of the open(2) that failed.
long create_mdev(struct mdev* mdev, const char* type, const char* uuid);
long remove_mdev(struct mdev* mdev, const char* text);

#endif  // UVFIO_TESTS_SEQUENCES_HOTPLUG_H_
