// The conformance program's frame: a check is one VFIO call and one line of output,
//
//   SECTION.CASE.CHECK ret=RESULT [errno=NAME] [what came back]
//
// A case is a function that makes checks; it runs in a process of its own, so that whatever it
// leaves open is closed before the next one starts. A section is a table of cases.
#ifndef UVFIO_TESTS_CONFORMANCE_CHECK_H_
#define UVFIO_TESTS_CONFORMANCE_CHECK_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

struct test_case {
  const char* name;
  void (*run)(void);
};

struct section {
  const char* name;
  const char* summary;
  const struct test_case* cases;
  size_t num_cases;
  bool needs_pci;       // Is about direct PCI devices, not about the mediated serial card.
  bool needs_root;      // Creates and removes devices; skipped by --no-root.
  void (*clean)(void);  // Undoes, after each case, what outlives the case's process. May be NULL.
};

extern const struct section container_section;
extern const struct section group_section;
extern const struct section lifetime_section;
extern const struct section type1_section;
extern const struct section dirty_section;
extern const struct section device_section;
extern const struct section irq_section;
extern const struct section feature_section;
extern const struct section migration_section;
extern const struct section mtty_section;
extern const struct section mdev_section;
extern const struct section remove_section;
extern const struct section domain_section;
extern const struct section domain_state_section;
extern const struct section pci_group_section;
extern const struct section pci_device_section;
extern const struct section pci_irq_section;
extern const struct section pci_signal_section;

// Reports a call that returned `result`; reads errno when that is -1.
void check(const char* name, long result);

// The same, with what the call gave back besides.
void check_out(const char* name, long result, const char* format, ...) PRINTF_LIKE(3, 4);

// Reports a call that returns a file descriptor, without its number, and returns it.
int check_fd(const char* name, int fd);

// Reports something that is not a call's result: the text of a file, a flag.
void check_value(const char* name, const char* format, ...) PRINTF_LIKE(2, 3);

// Ends the case: something it needs, and does not test, failed. Reports `what` and errno.
_Noreturn void give_up(const char* what);

// A formatted string. Nobody frees it: it goes with the process of its case.
const char* text(const char* format, ...) PRINTF_LIKE(1, 2);

// `size` bytes in hexadecimal, as text().
const char* hex(const void* bytes, size_t size);

// Prints what an ioctl wrote into its argument. Called for failures too.
typedef const char* describe_fn(const void* argument);

// Makes the call with each argsz that a handler has to tell apart: none, one short of `minsz`,
// exactly that, the whole struct, more, and the largest. `template` is the argument otherwise; it
// starts with argsz.
void check_argsz(const char* prefix, int fd, unsigned long request, const void* template,
                 size_t minsz, size_t size, describe_fn* describe);

// Makes the call with pointers that no handler may follow: NULL, unmapped, kernel, an argument that
// reaches into an unmapped page, and one that may be read but not written.
void check_pointers(const char* prefix, int fd, unsigned long request, const void* argument,
                    size_t size);

// Every VFIO ioctl number, with argument 0. `except` is a number to leave out, or 0.
void check_ioctl_numbers(const char* prefix, int fd, unsigned except);

// The frame's own side, for main.c.

// Runs one case and waits for it. Lines are printed only if `filter` says so.
void run_case(const struct section* section, const struct test_case* test,
              bool (*filter)(const char* line));

// How many lines were printed so far.
unsigned checks_reported(void);

#endif  // UVFIO_TESTS_CONFORMANCE_CHECK_H_
