#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../include/uvfio/vfio_compat.h"

enum {
  kCaseSeconds = 30,   // A case that takes longer hangs.
  kGraceSeconds = 10,  // Then it has this long to say so itself.
  kLineSize = 4096,
};

// Shared with the processes that cases run in.
static unsigned* reported;

static const char* section_name;
static const char* case_name;
static bool (*line_filter)(const char* line);

static void put_line(const char* line) {
  if (line_filter && !line_filter(line)) {
    return;
  }
  (*reported)++;
  printf("%s\n", line);
  fflush(stdout);
}

static void put_check(const char* name, const char* result, const char* format, va_list arguments) {
  char line[kLineSize];
  size_t length =
      (size_t)snprintf(line, sizeof(line), "%s.%s.%s%s", section_name, case_name, name, result);
  if (format) {
    line[length++] = ' ';
    vsnprintf(line + length, sizeof(line) - length, format, arguments);
  }
  put_line(line);
}

static const char* result_text(long result) {
  return result == -1 ? text(" ret=-1 errno=%s", strerrorname_np(errno)) : text(" ret=%ld", result);
}

void check(const char* name, long result) {
  va_list none = {0};
  put_check(name, result_text(result), NULL, none);
}

void check_out(const char* name, long result, const char* format, ...) {
  const char* outcome = result_text(result);
  va_list arguments;
  va_start(arguments, format);
  put_check(name, outcome, format, arguments);
  va_end(arguments);
}

int check_fd(const char* name, int fd) {
  va_list none = {0};
  put_check(name, fd >= 0 ? " ret=fd" : result_text(fd), NULL, none);
  return fd;
}

void check_value(const char* name, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  put_check(name, "", format, arguments);
  va_end(arguments);
}

void give_up(const char* what) {
  line_filter = NULL;  // Say so even if other lines were asked for.
  check_value("GAVE_UP", "%s: %s", what, strerrorname_np(errno));
  _exit(1);
}

const char* text(const char* format, ...) {
  char* result;
  va_list arguments;
  va_start(arguments, format);
  if (vasprintf(&result, format, arguments) < 0) {
    abort();
  }
  va_end(arguments);
  return result;
}

const char* hex(const void* bytes, size_t size) {
  static const char kDigits[] = "0123456789abcdef";
  const unsigned char* byte = bytes;
  char digits[kLineSize / 2];
  size_t length = 0;
  for (size_t i = 0; i < size && length + 2 < sizeof(digits); i++) {
    digits[length++] = kDigits[byte[i] >> 4];
    digits[length++] = kDigits[byte[i] & 15];
  }
  digits[length] = '\0';
  return text("%s", digits);
}

void check_argsz(const char* prefix, int fd, unsigned long request, const void* template,
                 size_t minsz, size_t size, describe_fn* describe) {
  const struct {
    const char* name;
    uint32_t argsz;
  } sizes[] = {
      {"none", 0},
      {"short", (uint32_t)minsz - 1},
      {"least", (uint32_t)minsz},
      {"whole", (uint32_t)size},
      {"more", (uint32_t)size + 1},
      {"huge", UINT32_MAX},
  };
  char argument[kLineSize];
  for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
    memset(argument, 0, sizeof(argument));
    memcpy(argument, template, size);
    memcpy(argument, &sizes[i].argsz, sizeof(sizes[i].argsz));
    long result = ioctl(fd, request, argument);
    const char* name = text("%s.argsz.%s", prefix, sizes[i].name);
    if (describe) {
      check_out(name, result, "%s", describe(argument));
    } else {
      check(name, result);
    }
  }
}

void check_pointers(const char* prefix, int fd, unsigned long request, const void* argument,
                    size_t size) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  // A page to use, and a hole after it.
  char* pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || munmap(pages + page, page)) {
    give_up("mmap");
  }
  const struct {
    const char* name;
    uintptr_t address;
  } pointers[] = {
      {"null", 0},
      {"unmapped", (uintptr_t)pages + page},
      {"kernel", (uintptr_t)0xffff888000000000},
      {"noncanonical", (uintptr_t)0x8000000000000000},
      {"last_byte", UINTPTR_MAX},
      {"straddling", (uintptr_t)pages + page - size + 1},
      {"readonly", (uintptr_t)pages},
  };
  for (size_t i = 0; i < ARRAY_SIZE(pointers); i++) {
    if (mprotect(pages, page, PROT_READ | PROT_WRITE)) {
      give_up("mprotect");
    }
    if (!strcmp(pointers[i].name, "straddling")) {
      memcpy(pages + page - size + 1, argument, size - 1);
    } else if (!strcmp(pointers[i].name, "readonly")) {
      memcpy(pages, argument, size);
      if (mprotect(pages, page, PROT_READ)) {
        give_up("mprotect");
      }
    }
    check(text("%s.pointer.%s", prefix, pointers[i].name), ioctl(fd, request, pointers[i].address));
  }
  munmap(pages, page);
}

void check_ioctl_numbers(const char* prefix, int fd, unsigned except) {
  for (unsigned number = VFIO_BASE - 1; number <= VFIO_BASE + 24; number++) {
    if (number != except) {
      check(text("%s.nr.%u", prefix, number), ioctl(fd, _IO(VFIO_TYPE, number), 0));
    }
  }
  // The same number under another type, and with a size and direction in it, is a different ioctl.
  check(text("%s.nr.other_type", prefix), ioctl(fd, _IO('v', VFIO_BASE), 0));
  check(text("%s.nr.with_size", prefix), ioctl(fd, _IOWR(VFIO_TYPE, VFIO_BASE, int), 0));
}

static void report_timeout(int signal) {
  (void)signal;
  char line[kLineSize];
  int length = snprintf(line, sizeof(line), "%s.%s TIMEOUT\n", section_name, case_name);
  if (write(STDOUT_FILENO, line, (size_t)length) < 0) {
    _exit(4);
  }
  _exit(3);
}

void run_case(const struct section* section, const struct test_case* test,
              bool (*filter)(const char* line)) {
  if (!reported) {
    reported =
        mmap(NULL, sizeof(*reported), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reported == MAP_FAILED) {
      perror("mmap");
      exit(2);
    }
  }
  section_name = section->name;
  case_name = test->name;
  line_filter = filter;

  sigset_t child_exit, old_mask;
  sigemptyset(&child_exit);
  sigaddset(&child_exit, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_exit, &old_mask);
  fflush(stdout);
  pid_t child = fork();
  if (child < 0) {
    perror("fork");
    exit(2);
  }
  if (!child) {
    sigprocmask(SIG_SETMASK, &old_mask, NULL);
    signal(SIGALRM, report_timeout);
    alarm(kCaseSeconds);
    test->run();
    _exit(0);
  }
  int status = 0;
  const struct timespec limit = {.tv_sec = kCaseSeconds + kGraceSeconds};
  if (sigtimedwait(&child_exit, NULL, &limit) < 0 && errno == EAGAIN) {
    printf("%s.%s TIMEOUT\n", section->name, test->name);
    kill(child, SIGKILL);  // It may be stuck in the kernel: do not wait for it.
  } else if (waitpid(child, &status, 0) == child && WIFSIGNALED(status)) {
    printf("%s.%s CRASHED %s\n", section->name, test->name, sigabbrev_np(WTERMSIG(status)));
  }
  sigprocmask(SIG_SETMASK, &old_mask, NULL);
  if (section->clean) {
    section->clean();
  }
}

unsigned checks_reported(void) { return reported ? *reported : 0; }
