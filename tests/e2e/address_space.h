// What the cases of address_space share: the device, and what they print about it.
#ifndef UVFIO_TESTS_E2E_ADDRESS_SPACE_H_
#define UVFIO_TESTS_E2E_ADDRESS_SPACE_H_

#include <stdint.h>

#include "edu.h"

enum {
  kPage = 4096,
  kSize = 4 * kPage,    // of a mapping
  kLimit = 16,          // RLIMIT_MEMLOCK in pages
  kIova = 0x100000,     // what is mapped first
  kSecond = 0x200000,   // and then
  kProbes = 0x4000000,  // what report_room() maps
};

// Each case is a process of its own, which sets them.
extern const char* case_name;
extern struct edu edu;

// Each prints a line "<case_name>.<key> ...".
void say(const char* key, const char* format, ...) __attribute__((format(printf, 2, 3)));
// "ok", or the error if `result` is -1.
void report(const char* key, long result);
// Unmaps kSize: how much that was.
void report_unmap(const char* key, uint32_t flags, uint64_t iova);
// How many pages this process can still map.
void report_room(const char* key);
// The device copies the first page of what is mapped at `iova` to the second: do the bytes move in
// `bytes`?
void report_dma(const char* key, uint64_t iova, uint8_t* bytes);
// For memory that need not be there any longer: whether it ends is all that counts.
void report_dma_ends(const char* key, uint64_t iova);

#endif  // UVFIO_TESTS_E2E_ADDRESS_SPACE_H_
