// What the calls answered: a hash of lines such as
//
//   unmap c0 flags=0 iova=0x100000 size=0x4000 = 0 size=0x4000
//
// or the lines themselves. They hold no descriptor, group or process numbers, and no times.
#ifndef UVFIO_TESTS_SEQUENCES_RECORD_H_
#define UVFIO_TESTS_SEQUENCES_RECORD_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

struct record {
  uint64_t hash;   // Of all lines so far.
  uint64_t calls;  // How many.
  bool print;
  bool old_errnos;  // EOVERFLOW reads EINVAL, as before Linux 6.18.
};

void start_record(struct record* record, bool print);

// One call: its arguments, its result (errno is read when that is -1), and what it gave back.
void note_call(struct record* record, const char* arguments, long result, const char* format, ...)
    PRINTF_LIKE(4, 5);

// FNV-1a, to put a buffer into a line.
uint64_t hash_bytes(uint64_t hash, const void* bytes, size_t size);
#define EMPTY_HASH 0xcbf29ce484222325u

// The same for a call that gave nothing back.
#define NOTE(record, arguments, result) note_call(record, arguments, result, "%s", "")

// Arguments of a call as text; good until the next one.
const char* with(const char* format, ...) PRINTF_LIKE(1, 2);

#endif  // UVFIO_TESTS_SEQUENCES_RECORD_H_
