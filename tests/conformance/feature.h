// VFIO_DEVICE_FEATURE with a payload.
#ifndef UVFIO_TESTS_CONFORMANCE_FEATURE_H_
#define UVFIO_TESTS_CONFORMANCE_FEATURE_H_

#include <stddef.h>
#include <stdint.h>

#include "fixture.h"

enum {
  kGet = VFIO_DEVICE_FEATURE_GET,
  kSet = VFIO_DEVICE_FEATURE_SET,
  kProbe = VFIO_DEVICE_FEATURE_PROBE,
};

// An argument with room for a payload.
union feature {
  struct vfio_device_feature header;
  char bytes[64];
};

// Fills it in. `flags` is GET, SET, PROBE and the feature's number.
void make_feature(union feature* feature, uint32_t flags, const void* payload, size_t size);

// Makes the call. The payload is written back whatever the outcome.
long device_feature(int device, uint32_t flags, void* payload, size_t size);

#endif  // UVFIO_TESTS_CONFORMANCE_FEATURE_H_
