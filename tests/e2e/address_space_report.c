#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "address_space.h"

void say(const char* key, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  printf("%s.%s ", case_name, key);
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
}

void report(const char* key, long result) {
  say(key, "%s", result == -1 ? strerrorname_np(errno) : "ok");
}

void report_unmap(const char* key, uint32_t flags, uint64_t iova) {
  const int64_t size = edu_unmap(&edu, flags, iova, kSize);
  if (size < 0) {
    report(key, -1);
  } else {
    say(key, "%#llx", (unsigned long long)size);
  }
}

void report_room(const char* key) {
  void* const page = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) die("mmap");
  unsigned pages = 0;
  while (pages < 2 * kLimit &&
         edu_map(&edu, 0, page, kProbes + (uint64_t)pages * kPage, kPage) == 0)
    ++pages;
  const int error = errno;
  if (pages != 0 && edu_unmap(&edu, 0, kProbes, (uint64_t)pages * kPage) != (int64_t)pages * kPage)
    die("UNMAP_DMA");
  munmap(page, kPage);
  say(key, "%u pages, then %s", pages, pages == 2 * kLimit ? "more" : strerrorname_np(error));
}

void report_dma(const char* key, uint64_t iova, uint8_t* bytes) {
  static uint32_t count;
  ++count;
  uint32_t* const words = (uint32_t*)bytes;
  for (uint32_t i = 0; i < kPage / 4; ++i)
    words[i] = i * 2654435761u + ((uint32_t)getpid() << 8) + count;
  memset(bytes + kPage, 0, kPage);
  const bool ended = edu_fetch(&edu, iova, kPage) && edu_store(&edu, iova + kPage, kPage);
  say(key, "%s",
      !ended                                     ? "no interrupt"
      : memcmp(bytes, bytes + kPage, kPage) == 0 ? "arrives"
                                                 : "is lost");
}

void report_dma_ends(const char* key, uint64_t iova) {
  say(key, "%s",
      edu_fetch(&edu, iova, kPage) && edu_store(&edu, iova + kPage, kPage) ? "ends"
                                                                           : "no interrupt");
}
