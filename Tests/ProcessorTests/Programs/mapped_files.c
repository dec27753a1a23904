// Mappings of files that cannot be written to are the kernel's, until the program outgrows its room, writes to them after all, or
// moves them: whatever a thread reads meanwhile is what the file has, or what was written. With "native", outside a rack.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>

enum { FILE_PAGES = 400 };

static const char *path;
static int is_native;
static atomic_int is_over, wrong_reads;
static atomic_ulong reads;

static uint64_t in_file(size_t page) { return page * 0x9e3779b97f4a7c15u + 1; }

static void make_file(void) {
  char bytes[PAGE];
  FILE *file = fopen(path, "w");
  CHECK(file != NULL);
  for (size_t page = 0; page < FILE_PAGES; page++) {
    for (size_t i = 0; i < PAGE; i += 8) *(uint64_t *)(bytes + i) = in_file(page);
    CHECK(fwrite(bytes, PAGE, 1, file) == 1);
  }
  fclose(file);
}

static char *map_file(size_t first, size_t count, int flags, void *place) {
  int file = open(path, O_RDONLY);
  char *memory = mmap(place, count * PAGE, PROT_READ, MAP_PRIVATE | flags, file, (off_t)(first * PAGE));
  close(file);
  CHECK(memory != MAP_FAILED);
  return memory;
}

// Whether the kernel maps the file itself: what stands in for it has another inode number (proc_pid_maps(5)).
static int is_kernels(const char *memory) {
  struct stat status;
  char line[600];
  int is_same = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL && stat(path, &status) == 0);
  while (fgets(line, sizeof line, maps)) {
    unsigned long start, end, inode;
    if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) != 3) continue;
    if (start <= (uintptr_t)memory && (uintptr_t)memory < end) is_same = inode == status.st_ino;
  }
  fclose(maps);
  return is_same;
}

static uint64_t word(const char *memory, size_t page) { return *(const volatile uint64_t *)(memory + page * PAGE + 64); }

static int is_file(const char *memory, size_t first, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (word(memory, i) != in_file(first + i)) return 0;
  return 1;
}

static void *read_all(void *memory) {
  while (!is_over) {
    for (size_t i = 0; i < FILE_PAGES; i++)
      if (word(memory, i * 7919 % FILE_PAGES) != in_file(i * 7919 % FILE_PAGES)) wrong_reads++;
    reads++;
  }
  return NULL;
}

static void allow_writes(char *memory, size_t page, size_t count) {
  CHECK(mprotect(memory + page * PAGE, count * PAGE, PROT_READ | PROT_WRITE) == 0);
}

// Threads read everything while watched memory takes the place of the file.
static void outgrows(void) {
  char *memory = map_file(0, FILE_PAGES, 0, NULL);
  CHECK(is_kernels(memory));
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, read_all, memory) == 0);
  while (reads < 4) sched_yield();
  press(PRESSURE);
  CHECK(is_native || !is_kernels(memory));
  unsigned long before = reads;
  while (reads < before + 4) sched_yield();
  is_over = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  CHECK(wrong_reads == 0);
  CHECK(is_file(memory, 0, FILE_PAGES));
}

// What is written where only reading was allowed is the program's own, whatever leaves, and the file does not change.
static void writes_later(void) {
  char *memory = map_file(0, FILE_PAGES, 0, NULL);
  CHECK(is_file(memory, 0, FILE_PAGES) && is_kernels(memory));
  allow_writes(memory, 100, 50);
  CHECK(is_native || !is_kernels(memory));
  for (size_t i = 100; i < 150; i++) *(uint64_t *)(memory + i * PAGE + 64) = i;
  pid_t child = fork();
  if (child == 0) {
    for (size_t i = 100; i < 150; i++) CHECK(word(memory, i) == i);
    allow_writes(memory, 0, FILE_PAGES);
    memset(memory, 1, FILE_PAGES * PAGE);
    press(PRESSURE);
    for (size_t i = 0; i < FILE_PAGES; i++) CHECK(word(memory, i) == 0x0101010101010101u);
    _exit(check_failures != 0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  press(PRESSURE);
  CHECK(is_file(memory, 0, 100) && is_file(memory + 150 * PAGE, 150, FILE_PAGES - 150));
  for (size_t i = 100; i < 150; i++) CHECK(word(memory, i) == i);
  CHECK(madvise(memory + 100 * PAGE, 50 * PAGE, MADV_DONTNEED) == 0);
  CHECK(is_file(memory, 0, FILE_PAGES));
}

// As a debugger writes to text.
static void pokes(void) {
  char *memory = map_file(0, FILE_PAGES, 0, NULL);
  int own = open("/proc/self/mem", O_RDWR);
  uint64_t value = 42;
  CHECK(pwrite(own, &value, 8, (off_t)(uintptr_t)(memory + 10 * PAGE + 64)) == 8);
  close(own);
  CHECK(word(memory, 10) == 42 && is_kernels(memory));
  press(PRESSURE);
  CHECK(is_native || !is_kernels(memory));
  CHECK(word(memory, 10) == 42);
  CHECK(is_file(memory, 0, 10) && is_file(memory + 11 * PAGE, 11, FILE_PAGES - 11));
}

static void moves_and_parts(void) {
  char *memory = map_file(0, 100, 0, NULL);
  CHECK(is_file(memory, 0, 100));
  memory = mremap(memory, 100 * PAGE, 200 * PAGE, MREMAP_MAYMOVE);
  CHECK(memory != MAP_FAILED);
  CHECK(is_file(memory, 0, 200));
  // As a dynamic linker does: parts of the file in place of others, with a gap of other memory.
  char *whole = map_file(0, 300, 0, NULL);
  CHECK(map_file(200, 50, MAP_FIXED, whole + 50 * PAGE) == whole + 50 * PAGE);
  CHECK(mmap(whole + 150 * PAGE, 50 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
        whole + 150 * PAGE);
  memset(whole + 150 * PAGE, 3, 50 * PAGE);
  CHECK(munmap(whole + 250 * PAGE, 20 * PAGE) == 0);
  for (int round = 0; round < 2; round++) {
    CHECK(is_file(whole, 0, 50) && is_file(whole + 50 * PAGE, 200, 50) && is_file(whole + 100 * PAGE, 100, 50));
    for (size_t i = 150; i < 200; i++) CHECK(word(whole, i) == 0x0303030303030303u);
    CHECK(is_file(whole + 200 * PAGE, 200, 50) && is_file(whole + 270 * PAGE, 270, 30));
    press(PRESSURE);
  }
}

static void locked(void) {
  char *memory = map_file(0, 10, 0, NULL);
  if (mlock(memory, 10 * PAGE)) return;
  press(PRESSURE);
  unsigned char there[10] = {0};
  CHECK(mincore(memory, 10 * PAGE, there) == 0);
  CHECK(is_file(memory, 0, 10));
  CHECK(munlock(memory, 10 * PAGE) == 0);
  allow_writes(memory, 0, 10);
  memset(memory, 2, 10 * PAGE);
  press(PRESSURE);
  for (size_t i = 0; i < 10; i++) CHECK(word(memory, i) == 0x0202020202020202u);
}

static sigjmp_buf beyond;
static void leave(int signal) { siglongjmp(beyond, signal); }

static void ends_early(void) {
  struct sigaction action = {.sa_handler = leave};
  sigaction(SIGBUS, &action, NULL);
  char *memory = map_file(FILE_PAGES - 2, 4, 0, NULL);
  for (int round = 0; round < 2; round++) {
    CHECK(word(memory, 1) == in_file(FILE_PAGES - 1));
    volatile int signal = sigsetjmp(beyond, 1);
    if (signal == 0) word(memory, 3);
    CHECK(signal == SIGBUS);
    press(PRESSURE);
  }
}

int main(int count, char **values) {
  path = values[1];
  is_native = count > 2;
  make_file();
  // From here on the C library's own text leaves room for the file in each process.
  press(PRESSURE);
  apart(outgrows);
  apart(writes_later);
  apart(pokes);
  apart(moves_and_parts);
  apart(locked);
  apart(ends_early);
  char *memory = map_file(0, FILE_PAGES, 0, NULL);
  CHECK(is_file(memory, 0, FILE_PAGES));
  return check_result();
}
