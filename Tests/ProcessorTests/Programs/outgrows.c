// Fresh memory that fits beside all else, and is the kernel's to fill, becomes watched when the program outgrows its room: what was
// written, what was only read, and what was never touched of it. With the argument "fits", a program that never outgrows it.
#include "check.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>

enum { SMALL = 400, LARGE = 6000, COUNTERS = 64 };

static volatile uint64_t *counters;
static volatile int is_over;
static uint64_t steps;

// Writes to unwatched memory without pause while it comes to be watched, and leaves, and comes back.
static void *count_up(void *argument) {
  (void)argument;
  while (!is_over) counters[(steps++ % COUNTERS) * (PAGE / 8)]++;
  return NULL;
}

// Every page once, none next to the one before.
static size_t scattered(size_t index, size_t count) { return index * 7919 % count; }

static void write_all(char *memory, size_t count, uint64_t seed) {
  for (size_t i = 0; i < count; i++) {
    size_t page = scattered(i, count);
    *(uint64_t *)(memory + page * PAGE) = seed + page;
  }
}

static void check_all(char *memory, size_t count, uint64_t seed) {
  for (size_t i = 0; i < count; i++) {
    size_t page = scattered(i, count);
    CHECK(*(uint64_t *)(memory + page * PAGE) == seed + page);
  }
}

static void check_small(char *memory) {
  check_all(memory, SMALL / 2, 1);
  for (size_t page = SMALL / 2; page < SMALL; page++) CHECK(*(uint64_t *)(memory + page * PAGE) == 0);
}

int main(int count, char **values) {
  if (count > 1 && !strcmp(values[1], "fits")) {
    char *memory = pages(2 * SMALL);
    for (int round = 0; round < 3; round++) {
      write_all(memory, 2 * SMALL, (uint64_t)round);
      check_all(memory, 2 * SMALL, (uint64_t)round);
    }
    return check_result();
  }
  char *small = pages(SMALL), *moved = pages(100);
  counters = (volatile uint64_t *)pages(COUNTERS);
  write_all(small, SMALL / 2, 1);
  volatile char sum = 0;
  for (size_t page = SMALL / 2; page < SMALL * 3 / 4; page++) sum += small[page * PAGE];
  CHECK(sum == 0);
  write_all(moved, 100, 1000);
  moved = mremap(moved, 100 * PAGE, 200 * PAGE, MREMAP_MAYMOVE);
  CHECK(moved != MAP_FAILED);
  check_all(moved, 100, 1000);

  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, count_up, NULL) == 0);
  char *large = pages(LARGE);
  write_all(large, LARGE, 5000);
  pid_t child = fork();
  if (child == 0) {
    check_small(small);
    memset(small, 0x55, SMALL * PAGE);
    char *own = pages(SMALL);
    write_all(own, SMALL, 77);
    check_all(large, LARGE, 5000);
    check_all(own, SMALL, 77);
    _exit(check_result());
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  check_all(large, LARGE, 5000);
  check_small(small);
  check_all(moved, 100, 1000);
  is_over = 1;
  pthread_join(thread, NULL);
  uint64_t total = 0;
  for (size_t i = 0; i < COUNTERS; i++) total += counters[i * (PAGE / 8)];
  CHECK(total == steps);
  return check_result();
}
