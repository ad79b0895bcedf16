// Makes random sequences of VFIO calls and prints a hash of their answers for every hundred seeds,
// so that two implementations can be compared call by call over millions of calls. See README.md.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { kBlock = 100, kDefaultCalls = 1000 };

static void usage(FILE* out) {
  fputs(
      "usage: uvfio-sequences [--direct] [--print] [--each] [--calls N] FIRST [COUNT]\n"
      "\n"
      "Makes the sequences of calls of COUNT seeds (1) from FIRST on, and prints a hash of the\n"
      "answers for every 100 seeds. A sequence has N calls (1000).\n"
      "\n"
      "  --direct with PCI devices (edu) instead of mediated ones\n"
      "  --each   a hash for every seed\n"
      "  --print  every call and its answer besides\n",
      out);
}

// What there is to do, and how often.
static void make_call(struct world* world) {
  const uint32_t way = below(&world->chance, 200);
  if (way < 130) {
    call_type1(world);
  } else if (way < 160) {
    // Between mappings that share a word of the bitmap, stale bits show.
    world->direct && world->unit == kPage ? call_tracking(world) : call_dirty(world);
  } else if (way < 168) {
    call_container(world);
  } else if (way < 174) {
    call_mend(world);
  } else if (way < 184) {
    call_group(world);
  } else if (way < 197) {
    call_device(world);
  } else {
    call_hotplug(world);
  }
}

static void run_sequence(struct world* world, uint64_t seed, unsigned calls) {
  start_sequence(world, seed);
  if (!once_in(&world->chance, 16)) {
    set_up(world);
  }
  for (unsigned i = 0; i < calls; i++) {
    make_call(world);
  }
  end_sequence(world);
}

static bool parse(const char* text, uint64_t* value) {
  char* end;
  *value = strtoull(text, &end, 0);
  return *text && !*end;
}

int main(int argc, char** argv) {
  bool print = false;
  bool each = false;
  bool direct = false;
  uint64_t calls = kDefaultCalls, first = 0, count = 1;
  int at = 1;
  for (; at < argc && !strncmp(argv[at], "--", 2); at++) {
    if (!strcmp(argv[at], "--print")) {
      print = each = true;
    } else if (!strcmp(argv[at], "--direct")) {
      direct = true;
    } else if (!strcmp(argv[at], "--each")) {
      each = true;
    } else if (strcmp(argv[at], "--calls") || ++at == argc || !parse(argv[at], &calls)) {
      usage(stderr);
      return 2;
    }
  }
  if (argc - at < 1 || argc - at > 2 || !parse(argv[at], &first) ||
      (argc - at == 2 && !parse(argv[at + 1], &count))) {
    usage(stderr);
    return 2;
  }
  static struct world world;
  if (!discover(&world, direct)) {
    fprintf(stderr, "uvfio-sequences: there are no such devices\n");
    return 2;
  }
  uint64_t total = 0;
  uint64_t block_start = first;
  world.record.old_errnos = direct;
  start_record(&world.record, print);
  for (uint64_t seed = first; seed < first + count; seed++) {
    run_sequence(&world, seed, (unsigned)calls);
    const bool last = seed + 1 == first + count;
    if (each || last || (seed + 1) % kBlock == 0) {
      printf("%" PRIu64 "-%" PRIu64 " %016" PRIx64 " %" PRIu64 " calls\n", block_start, seed,
             world.record.hash, world.record.calls);
      fflush(stdout);
      total += world.record.calls;
      block_start = seed + 1;
      start_record(&world.record, print);
    }
  }
  printf("# %" PRIu64 " calls\n", total);
  return 0;
}
