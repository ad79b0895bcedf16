#include "record.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { kLineSize = 512 };

void start_record(struct record* record, bool print) {
  *record = (struct record){.hash = EMPTY_HASH, .print = print, .old_errnos = record->old_errnos};
}

uint64_t hash_bytes(uint64_t hash, const void* bytes, size_t size) {
  const unsigned char* byte = bytes;
  for (size_t i = 0; i < size; i++) {
    hash = (hash ^ byte[i]) * 0x100000001b3;
  }
  return hash;
}

void note_call(struct record* record, const char* arguments, long result, const char* format, ...) {
  const int error = errno == EOVERFLOW && record->old_errnos ? EINVAL : errno;
  char line[kLineSize];
  int length = snprintf(line, sizeof(line), "%s = %ld%s%s ", arguments, result,
                        result == -1 ? " " : "", result == -1 ? strerrorname_np(error) : "");
  va_list values;
  va_start(values, format);
  length += vsnprintf(line + length, sizeof(line) - (size_t)length, format, values);
  va_end(values);
  record->calls++;
  record->hash = hash_bytes(record->hash, line, (size_t)length + 1);
  if (record->print) {
    puts(line);
  }
}

const char* with(const char* format, ...) {
  static char arguments[kLineSize / 2];
  va_list values;
  va_start(values, format);
  vsnprintf(arguments, sizeof(arguments), format, values);
  va_end(values);
  return arguments;
}
