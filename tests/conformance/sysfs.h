// The mdev side of sysfs: making devices and reading what is there.
#ifndef UVFIO_TESTS_CONFORMANCE_SYSFS_H_
#define UVFIO_TESTS_CONFORMANCE_SYSFS_H_

#include <stddef.h>

// The UUID of the n-th device that the program makes itself.
const char* own_uuid(unsigned n);

// <parent>/mdev_supported_types/<type>/<file>, for the parent of the device under test.
const char* type_file(const char* type, const char* file);

// MDEV_DEVICES/<uuid>/<file>.
const char* mdev_file(const char* uuid, const char* file);

// Opens `path` and writes `size` bytes in one call; the result of the call that failed, or of the
// write.
long write_file(const char* path, const char* data, size_t size);

long create_mdev(const char* type, const char* uuid);
long remove_mdev(const char* uuid);

// As above, or gives up.
void must_create_mdev(const char* type, const char* uuid);

// How many more devices of a type there can be, as its attribute says.
unsigned available_instances(const char* type);

// Reports a file's text, a link's target and a directory's entries, with UUIDs and group numbers
// made anonymous, as those of `uuid`.
void report_file(const char* name, const char* path, const char* uuid);
void report_link(const char* name, const char* path, const char* uuid);
void report_directory(const char* name, const char* path, const char* uuid);

// Removes what own_uuid() names, should it exist.
void remove_own_mdevs(void);

#endif  // UVFIO_TESTS_CONFORMANCE_SYSFS_H_
