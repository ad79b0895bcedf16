// VFIO_DEVICE_FEATURE: what is probed, and DMA logging. Migration has a section of its own.

#include "feature.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"

void make_feature(union feature* feature, uint32_t flags, const void* payload, size_t size) {
  feature->header.argsz = (uint32_t)(sizeof(feature->header) + size);
  feature->header.flags = flags;
  if (size) {
    memcpy(feature->header.data, payload, size);
  }
}

long device_feature(int device, uint32_t flags, void* payload, size_t size) {
  union feature feature;
  make_feature(&feature, flags, payload, size);
  long result = ioctl(device, VFIO_DEVICE_FEATURE, &feature);
  if (size) {
    memcpy(payload, feature.header.data, size);
  }
  return result;
}

static void check_feature_argument(const char* prefix, int device, const union feature* feature) {
  const size_t size = feature->header.argsz;
  check_argsz(prefix, device, VFIO_DEVICE_FEATURE, feature, sizeof(feature->header), size, NULL);
  check_pointers(prefix, device, VFIO_DEVICE_FEATURE, feature, size);
}

// Every feature in every direction, with no payload.
static void probe(void) {
  struct vfio vfio = open_vfio(kDevice);
  const struct {
    const char* name;
    uint32_t flags;
  } directions[] = {
      {"none", 0},
      {"get", kGet},
      {"set", kSet},
      {"get_set", kGet | kSet},
      {"probe", kProbe},
      {"probe_get", kProbe | kGet},
      {"probe_set", kProbe | kSet},
      {"probe_get_set", kProbe | kGet | kSet},
  };
  for (uint32_t feature = 0; feature <= 15; feature++) {
    for (size_t i = 0; i < ARRAY_SIZE(directions); i++) {
      check(text("%u.%s", feature, directions[i].name),
            device_feature(vfio.device, directions[i].flags | feature, NULL, 0));
    }
  }
  check("65535.probe", device_feature(vfio.device, kProbe | VFIO_DEVICE_FEATURE_MASK, NULL, 0));
}

static void argument(void) {
  struct vfio vfio = open_vfio(kDevice);
  const struct vfio_device_feature_migration migration = {0};
  union feature get;
  make_feature(&get, kGet | VFIO_DEVICE_FEATURE_MIGRATION, &migration, sizeof(migration));
  check_feature_argument("migration", vfio.device, &get);
  struct vfio_device_feature only = {.argsz = sizeof(only),
                                     .flags = kProbe | VFIO_DEVICE_FEATURE_MIGRATION};
  check_pointers("probe", vfio.device, VFIO_DEVICE_FEATURE, &only, sizeof(only));

  const uint32_t unknown[] = {1u << 19, 1u << 31};
  for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
    check(
        text("unknown_flag_%#x", unknown[i]),
        device_feature(vfio.device, unknown[i] | kProbe | VFIO_DEVICE_FEATURE_MIGRATION, NULL, 0));
    check(text("unknown_flag_%#x.unknown_feature", unknown[i]),
          device_feature(vfio.device, unknown[i] | kProbe | 1000, NULL, 0));
  }
}

// ---- DMA logging

static long logging_start(int device, uint64_t page_size, uint32_t num_ranges, uint64_t ranges) {
  struct vfio_device_feature_dma_logging_control control = {
      .page_size = page_size, .num_ranges = num_ranges, .ranges = ranges};
  return device_feature(device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &control,
                        sizeof(control));
}

static void logging_start_table(void) {
  struct vfio vfio = open_vfio(kDevice);
  static struct vfio_device_feature_dma_logging_range many[300];
  for (size_t i = 0; i < ARRAY_SIZE(many); i++) {
    many[i].iova = 0x100000 + i * 2 * kPage;
    many[i].length = kPage;
  }
  const struct {
    const char* name;
    uint64_t page_size;
    uint32_t count;
    uint64_t address;
  } counts[] = {
      {"no_ranges", kPage, 0, (uintptr_t)many},
      {"one", kPage, 1, (uintptr_t)many},
      {"256", kPage, 256, (uintptr_t)many},
      {"257", kPage, 257, (uintptr_t)many},
      {"count_largest", kPage, UINT32_MAX, (uintptr_t)many},
      {"null", kPage, 1, 0},
      {"null_too_many", kPage, 257, 0},
      {"kernel", kPage, 1, 0xffff888000000000},
      {"page_size_zero", 0, 1, (uintptr_t)many},
      {"page_size_one", 1, 1, (uintptr_t)many},
      {"page_size_odd", 12345, 1, (uintptr_t)many},
      {"page_size_8192", 8192, 1, (uintptr_t)many},
      {"page_size_huge", 1ull << 30, 1, (uintptr_t)many},
  };
  for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
    struct vfio_device_feature_dma_logging_control control = {.page_size = counts[i].page_size,
                                                              .num_ranges = counts[i].count,
                                                              .ranges = counts[i].address};
    long result = device_feature(vfio.device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
                                 &control, sizeof(control));
    check_out(counts[i].name, result, "page_size=%#llx", (unsigned long long)control.page_size);
    device_feature(vfio.device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0);
  }

  const struct {
    const char* name;
    struct vfio_device_feature_dma_logging_range ranges[2];
  } rows[] = {
      {"iova_unaligned", {{1, kPage}, {0x800000, kPage}}},
      {"length_unaligned", {{0, kPage + 1}, {0x800000, kPage}}},
      {"length_zero", {{0, 0}, {0x800000, kPage}}},
      {"wraps", {{-(uint64_t)kPage, 2 * kPage}, {0x800000, kPage}}},
      {"last_page", {{-(uint64_t)kPage, kPage}, {0x800000, kPage}}},
      {"last_but_one_page", {{-(uint64_t)kPage * 2, kPage}, {0x800000, kPage}}},
      {"same_twice", {{0x800000, kPage}, {0x800000, kPage}}},
      {"overlap", {{0x800000, 2 * kPage}, {0x801000, 2 * kPage}}},
      {"touch", {{0x800000, kPage}, {0x801000, kPage}}},
      {"descending", {{0x900000, kPage}, {0x800000, kPage}}},
      {"second_unaligned", {{0x800000, kPage}, {0x900001, kPage}}},
  };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    check(text("ranges.%s", rows[i].name),
          logging_start(vfio.device, kPage, 2, (uintptr_t)rows[i].ranges));
    device_feature(vfio.device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0);
  }
}

// Only what is refused: whether a report can be made at all depends on how the kernel was built, as
// the code that writes its bitmap belongs to iommufd.
static void logging_report(void) {
  struct vfio vfio = open_vfio(kDevice);
  static uint64_t words[64];
  const struct {
    const char* name;
    uint64_t iova, length, page_size, bitmap;
  } rows[] = {
      {"page_size_zero", 0x100000, kPage, 0, (uintptr_t)words},
      {"page_size_one", 0x100000, kPage, 1, (uintptr_t)words},
      {"page_size_2048", 0x100000, kPage, 2048, (uintptr_t)words},
      {"page_size_odd", 0x100000, kPage, 12288, (uintptr_t)words},
      {"wraps", -(uint64_t)kPage, 2 * kPage, kPage, (uintptr_t)words},
      {"last_page", -(uint64_t)kPage, kPage, kPage, (uintptr_t)words},
  };
  for (int started = 0; started <= 1; started++) {
    struct vfio_device_feature_dma_logging_range range = {0x100000, 256 * kPage};
    if (started) {
      check("start", logging_start(vfio.device, kPage, 1, (uintptr_t)&range));
      check("start.again", logging_start(vfio.device, kPage, 1, (uintptr_t)&range));
    }
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
      struct vfio_device_feature_dma_logging_report report = {.iova = rows[i].iova,
                                                              .length = rows[i].length,
                                                              .page_size = rows[i].page_size,
                                                              .bitmap = rows[i].bitmap};
      long result = device_feature(vfio.device, kGet | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
                                   &report, sizeof(report));
      check(text("%s.%s", started ? "started" : "stopped", rows[i].name), result);
    }
  }
  check("stop", device_feature(vfio.device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0));
  check("stop.again",
        device_feature(vfio.device, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL, 0));
}

static void logging_argument(void) {
  struct vfio vfio = open_vfio(kDevice);
  struct vfio_device_feature_dma_logging_range range = {0x100000, kPage};
  const struct vfio_device_feature_dma_logging_control control = {
      .page_size = kPage, .num_ranges = 1, .ranges = (uintptr_t)&range};
  union feature start;
  make_feature(&start, kSet | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, &control, sizeof(control));
  check_feature_argument("start", vfio.device, &start);
}

static const struct test_case kCases[] = {
    {"probe", probe},
    {"argument", argument},
    {"logging_start", logging_start_table},
    {"logging_report", logging_report},
    {"logging_argument", logging_argument},
};

const struct section feature_section = {
    .name = "feature",
    .summary = "VFIO_DEVICE_FEATURE, and DMA logging",
    .cases = kCases,
    .num_cases = ARRAY_SIZE(kCases),
};
