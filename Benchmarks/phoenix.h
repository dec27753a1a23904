// What the programs after Phoenix (Ranger et al., "Evaluating MapReduce for Multi-core and Multiprocessor Systems", HPCA 2007) share:
// a map over threads, one for each processor, a random generator, and the line that each prints: name, seconds, checksum.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

struct part {
  int index;
  uint64_t first, end; // of the range of units that is this thread's
};

static double phoenix_start;

static inline double seconds_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static inline uint64_t next_random(uint64_t *state) { // xorshift64*
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545F4914F6CDD1DULL;
}

static inline void fail(const char *what) {
  perror(what);
  exit(1);
}

// Memory as malloc(3) gives it for large sizes, without huge pages: remote memory and swap are compared page by page.
static inline void *take(uint64_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  return memory;
}

// A thread for each processor that the program may use. Asked once, by the main thread: the sums at the end loop over it.
static inline int thread_count(void) {
  static int count;
  if (count) return count;
  cpu_set_t own;
  if (sched_getaffinity(0, sizeof own, &own)) fail("sched_getaffinity");
  count = CPU_COUNT(&own);
  if (count > THREADS_MAX) count = THREADS_MAX;
  return count;
}

// Splits `units` evenly and calls `map` on a thread for each part; returns when all have.
static inline void map_parts(uint64_t units, void *(*map)(void *)) {
  int count = thread_count();
  struct part parts[THREADS_MAX];
  pthread_t threads[THREADS_MAX];
  for (int i = 0; i < count; i++) {
    parts[i] = (struct part){i, units * (uint64_t)i / (uint64_t)count, units * (uint64_t)(i + 1) / (uint64_t)count};
    if (pthread_create(&threads[i], NULL, map, &parts[i])) fail("pthread_create");
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static inline void begin(void) { phoenix_start = seconds_now(); }

static inline int finish(const char *name, uint64_t sum) {
  printf("%s %.3f s sum %016lx\n", name, seconds_now() - phoenix_start, (unsigned long)sum);
  return 0;
}

// The size that a program was called with, in MiB.
static inline uint64_t mebibytes(int count, char **values, int at) {
  long size = count > at ? atol(values[at]) : 0;
  if (size < 1 || size > 65536) {
    fprintf(stderr, "%s: wants a size in MiB, 1 to 65536\n", values[0]);
    exit(64);
  }
  return (uint64_t)size;
}
