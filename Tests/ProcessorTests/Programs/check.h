// What the test programs share: each checks its own memory, prints a line for every thing that is wrong, and ends with
// 1 if any was.
#pragma once
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int check_failures;
#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      check_failures++; \
    } \
  } while (0)

enum { PAGE = 4096 };

static inline char *pages(size_t count) {
  char *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  return memory;
}

// Touches so much other memory that everything else has been evicted.
static inline void press(size_t count) {
  char *memory = pages(count);
  memset(memory, 0x77, count * PAGE);
  munmap(memory, count * PAGE);
}

static inline int check_result(void) {
  if (!check_failures) puts("ok");
  fflush(stdout);
  return check_failures != 0;
}
