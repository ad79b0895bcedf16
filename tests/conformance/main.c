// Makes every VFIO call that a mediated serial card and a direct PCI device allow, and prints what
// came of it, one line a check. The output does not depend on the machine, so that one
// implementation's can be compared with another's: see README.md.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "pci_fixture.h"

static const struct section* const kSections[] = {
    &container_section,
    &group_section,
    &lifetime_section,
    &type1_section,
    &dirty_section,
    &device_section,
    &irq_section,
    &feature_section,
    &migration_section,
    &mtty_section,
    &mdev_section,
    &remove_section,
    // Direct PCI devices
    &domain_section,
    &domain_state_section,
    &pci_group_section,
    &pci_device_section,
    &pci_irq_section,
    &pci_signal_section,
};

static char** selectors;
static int num_selectors;

static void usage(FILE* out) {
  fprintf(
      out,
      "usage: uvfio-conformance [--no-root] [--list] [SECTION[.CASE[.CHECK]]...]\n"
      "\n"
      "Checks a VFIO implementation through a mediated serial card (mtty), the one whose UUID is\n"
      "in $UVFIO_MDEV, else the first in " MDEV_DEVICES
      "; and through educational PCI\n"
      "devices (1234:11e8) bound to vfio-pci. Sections without their devices are left out.\n"
      "\n"
      "  --list     print the sections and cases, run nothing\n"
      "  --no-root  leave out the sections that create and remove devices\n"
      "\n"
      "Sections:\n");
  for (size_t i = 0; i < ARRAY_SIZE(kSections); i++) {
    fprintf(out, "  %-10s %s%s\n", kSections[i]->name, kSections[i]->summary,
            kSections[i]->needs_root ? " (root)" : "");
  }
}

// Whether one of two dotted names lies below the other.
static bool on_same_path(const char* name, size_t length, const char* selector) {
  size_t shorter = strlen(selector);
  const bool selector_is_longer = shorter > length;
  if (selector_is_longer) {
    shorter = length;
  }
  if (strncmp(name, selector, shorter) != 0) {
    return false;
  }
  const char next = selector_is_longer ? selector[shorter] : name[shorter];
  return next == '\0' || next == '.' || next == ' ';
}

static bool is_selected(const char* name) {
  size_t length = strcspn(name, " ");
  for (int i = 0; i < num_selectors; i++) {
    if (on_same_path(name, length, selectors[i])) {
      return true;
    }
  }
  return num_selectors == 0;
}

int main(int argc, char** argv) {
  bool list = false;
  bool with_root = true;
  int first = 1;
  for (; first < argc && !strncmp(argv[first], "--", 2); first++) {
    if (!strcmp(argv[first], "--list")) {
      list = true;
    } else if (!strcmp(argv[first], "--no-root")) {
      with_root = false;
    } else if (!strcmp(argv[first], "--help")) {
      usage(stdout);
      return 0;
    } else {
      usage(stderr);
      return 2;
    }
  }
  selectors = argv + first;
  num_selectors = argc - first;

  const bool have_mdev = find_device(getenv("UVFIO_MDEV"));
  const bool have_pci = find_pci_devices();
  if (!list && !have_mdev && !have_pci) {
    fprintf(stderr, "uvfio-conformance: no mediated device in %s, no two direct ones\n",
            MDEV_DEVICES);
    return 2;
  }
  bool any = false;
  for (size_t i = 0; i < ARRAY_SIZE(kSections); i++) {
    const struct section* section = kSections[i];
    if ((section->needs_root && !with_root) ||
        (!list && !(section->needs_pci ? have_pci : have_mdev))) {
      continue;
    }
    for (size_t j = 0; j < section->num_cases; j++) {
      const char* name = text("%s.%s", section->name, section->cases[j].name);
      if (!is_selected(name)) {
        continue;
      }
      any = true;
      if (list) {
        printf("%s\n", name);
      } else {
        run_case(section, &section->cases[j], is_selected);
      }
    }
  }
  if (!any) {
    fprintf(stderr, "uvfio-conformance: nothing is called that; --list names the cases\n");
    return 2;
  }
  if (!list) {
    printf("# %u checks\n", checks_reported());
  }
  return 0;
}
