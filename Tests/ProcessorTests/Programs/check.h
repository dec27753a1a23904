// What the test programs share: each checks its own memory, prints a line for every thing that is wrong, and ends with
// 1 if any was.
#pragma once
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int check_failures;
#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      check_failures++; \
    } \
  } while (0)

// Pages that are touched to have everything else evicted: twice of what the tests let a program have.
enum { PAGE = 4096, PRESSURE = 3000 };

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

// Pages each of which is filled with a byte of its own.
static inline char *filled(size_t count, char seed) {
  char *memory = pages(count);
  for (size_t i = 0; i < count; i++) memset(memory + i * PAGE, seed + (char)i, PAGE);
  return memory;
}

static inline int is_filled(const char *memory, size_t count, char seed) {
  for (size_t i = 0; i < count * PAGE; i += 256)
    if (memory[i] != (char)(seed + (char)(i / PAGE))) return 0;
  return 1;
}

// Runs a part in a process of its own, because it changes the process for good.
static inline void apart(void (*part)(void)) {
  // Or the child would print once more what is still to be written.
  fflush(stdout);
  pid_t child = fork();
  int status = -1;
  if (child == 0) {
    check_failures = 0;
    part();
    fflush(stdout);
    _exit(check_failures != 0);
  }
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

static inline int check_result(void) {
  if (!check_failures) puts("ok");
  fflush(stdout);
  return check_failures != 0;
}
