// Walks an array that is larger than local memory and prints what one access costs.
//
//   array PATTERN MEBIBYTES [THREADS]
//
// PATTERN: sequential-read, sequential-write, uniform-read, uniform-write, zipf-read, zipf-write (exponent 0.99).
// Every page is written once first, half of it random, so that a compressing swap cannot cheat. Sequential passes count whole
// pages, random ones single accesses to a page. Output, one line: pattern, nanoseconds per page access, seconds, accesses,
// checksum.
//
// Compiled with -DPAGER, a bare pager in the program itself keeps a quarter of the array local: see pager.h.
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifdef PAGER
#include "pager.h"
#endif

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8 };

static uint64_t *array;
static uint64_t page_count;
static double zipf_zeta, zipf_eta, zipf_alpha, zipf_half;

static uint64_t next_random(uint64_t *state) { // xorshift64*
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545F4914F6CDD1DULL;
}

static double seconds_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994: the generator that YCSB uses.
static void zipf_prepare(double theta) {
  for (uint64_t i = 1; i <= page_count; i++) zipf_zeta += 1 / pow((double)i, theta);
  double zeta_two = 1 + 1 / pow(2, theta);
  zipf_alpha = 1 / (1 - theta);
  zipf_eta = (1 - pow(2.0 / (double)page_count, 1 - theta)) / (1 - zeta_two / zipf_zeta);
  zipf_half = 1 + pow(0.5, theta);
}

static uint64_t zipf_page(uint64_t *state) {
  double u = (double)(next_random(state) >> 11) / 9007199254740992.0, uz = u * zipf_zeta;
  uint64_t rank = uz < 1 ? 0 : uz < zipf_half ? 1 : (uint64_t)((double)page_count * pow(zipf_eta * u - zipf_eta + 1, zipf_alpha));
  if (rank >= page_count) rank = page_count - 1;
  return (rank * 0x9E3779B97F4A7C15ULL) % page_count; // popular pages lie apart
}

static void populate(void) {
  uint64_t state = 88172645463325252ULL;
  for (uint64_t page = 0; page < page_count; page++) {
    uint64_t *words = array + page * PAGE_WORDS;
    for (int i = 0; i < PAGE_WORDS / 2; i++) words[i] = next_random(&state);
    for (int i = PAGE_WORDS / 2; i < PAGE_WORDS; i++) words[i] = page;
  }
}

struct work {
  pthread_t thread;
  int is_sequential, is_zipf, is_write;
  uint64_t seed, accesses, first_page, pages, sum;
};

static uint64_t walk_page(uint64_t page, int is_write) {
  uint64_t *words = array + page * PAGE_WORDS, sum = 0;
  if (is_write)
    for (int i = 0; i < PAGE_WORDS; i++) words[i] += 1;
  else
    for (int i = 0; i < PAGE_WORDS; i++) sum += words[i];
  return sum;
}

static void *run(void *argument) {
  struct work *work = argument;
  uint64_t state = work->seed;
  if (work->is_sequential) {
    for (uint64_t page = 0; page < work->pages; page++) work->sum += walk_page(work->first_page + page, work->is_write);
    return NULL;
  }
  for (uint64_t i = 0; i < work->accesses; i++) {
    uint64_t random = next_random(&state);
    uint64_t page = work->is_zipf ? zipf_page(&state) : random % page_count;
    uint64_t *word = array + page * PAGE_WORDS + (random >> 55);
    if (work->is_write)
      __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
    else
      work->sum += *word;
  }
  return NULL;
}

int main(int count, char **values) {
  static const char *patterns[] = {"sequential-read", "sequential-write", "uniform-read",
                                   "uniform-write",   "zipf-read",        "zipf-write"};
  int pattern = -1;
  for (int i = 0; count >= 3 && i < 6; i++)
    if (!strcmp(values[1], patterns[i])) pattern = i;
  long mebibytes = count >= 3 ? atol(values[2]) : 0, threads = count >= 4 ? atol(values[3]) : 1;
  if (pattern < 0 || mebibytes < 1 || threads < 1 || threads > 64) {
    fprintf(stderr, "usage: array {sequential|uniform|zipf}-{read|write} MEBIBYTES [THREADS]\n");
    return 64;
  }
  page_count = (uint64_t)mebibytes * 256;
  array = mmap(NULL, page_count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (array == MAP_FAILED) {
    fprintf(stderr, "array: cannot map %ld MiB: %s\n", mebibytes, strerror(errno));
    return 1;
  }
  // Swap and remote memory are compared page by page; huge pages would hand native runs another unit.
  madvise(array, page_count * PAGE_BYTES, MADV_NOHUGEPAGE);
#ifdef PAGER
  if (threads > 1) return 64;
  pager_start(array, page_count, page_count / 4);
#endif
  populate();
  if (pattern >= 4) zipf_prepare(0.99);
  uint64_t accesses_total = pattern < 2 ? page_count : page_count * 2;
  struct work work[64] = {0};
  double start = seconds_now();
  for (long i = 0; i < threads; i++) {
    work[i] = (struct work){.is_sequential = pattern < 2, .is_zipf = pattern >= 4, .is_write = pattern & 1,
                            .seed = 0x9E3779B97F4A7C15ULL * (uint64_t)(i + 1), .accesses = accesses_total / (uint64_t)threads,
                            .first_page = page_count / (uint64_t)threads * (uint64_t)i, .pages = page_count / (uint64_t)threads};
    if (threads == 1)
      run(&work[0]);
    else if (pthread_create(&work[i].thread, NULL, run, &work[i]))
      return 1;
  }
  uint64_t sum = 0;
  for (long i = 0; i < threads; i++) {
    if (threads > 1) pthread_join(work[i].thread, NULL);
    sum += work[i].sum;
  }
  double seconds = seconds_now() - start;
  if (pattern & 1) // what was written must be there: the random half cannot be checked cheaply, the sum of all words can
    for (uint64_t i = 0; i < page_count * PAGE_WORDS; i++) sum += array[i];
  printf("%s %.0f ns %.3f s %lu accesses sum %016lx\n", values[1], seconds * 1e9 / (double)accesses_total, seconds,
         (unsigned long)accesses_total, (unsigned long)sum);
  return 0;
}
