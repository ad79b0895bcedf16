// Random numbers that depend on nothing but a seed.
#ifndef UVFIO_TESTS_SEQUENCES_CHANCE_H_
#define UVFIO_TESTS_SEQUENCES_CHANCE_H_

#include <stdbool.h>
#include <stdint.h>

struct chance {
  uint64_t state;
};

// SplitMix64: neighbouring seeds give unrelated numbers.
static inline uint64_t any_number(struct chance* chance) {
  uint64_t z = chance->state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// A number less than `limit`.
static inline uint32_t below(struct chance* chance, uint32_t limit) {
  return (uint32_t)(((any_number(chance) >> 32) * limit) >> 32);
}

// True once in `times`.
static inline bool once_in(struct chance* chance, uint32_t times) {
  return below(chance, times) == 0;
}

#define ONE_OF(chance, array) ((array)[below(chance, sizeof(array) / sizeof((array)[0]))])

#endif  // UVFIO_TESTS_SEQUENCES_CHANCE_H_
