// mremap(2) in all its forms, on memory that is away: what moves keeps what it holds, and what is not asked for stays.
#include "check.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { COUNT = 64, FIXED = MREMAP_MAYMOVE | MREMAP_FIXED, KEEP = MREMAP_MAYMOVE | MREMAP_DONTUNMAP };
static sigjmp_buf back;
static void on_fault(int number) {
  (void)number;
  siglongjmp(back, 1);
}
static int is_gone(volatile char *address) {
  if (sigsetjmp(back, 1)) return 1;
  (void)*address;
  return 0;
}
static int is_zero(const char *memory, size_t count) {
  for (size_t i = 0; i < count * PAGE; i += 128) if (memory[i]) return 0;
  return 1;
}

// Room of `count` pages that is free.
static char *room(size_t count) {
  char *memory = pages(count);
  munmap(memory, count * PAGE);
  return memory;
}
static void fill(char *memory, size_t count, char seed) {
  for (size_t i = 0; i < count; i++) memset(memory + i * PAGE, seed + (char)i, PAGE);
}

static void grows(void) {
  char *there = room(3 * COUNT);
  char *memory = mmap(there, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  fill(memory, COUNT, 1);
  press(PRESSURE);
  CHECK(mremap(memory, COUNT * PAGE, 2 * COUNT * PAGE, 0) == memory);
  CHECK(is_filled(memory, COUNT, 1) && is_zero(memory + COUNT * PAGE, COUNT));
  fill(memory + COUNT * PAGE, COUNT, 90);
  char *wall = mmap(memory + 2 * COUNT * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(wall == memory + 2 * COUNT * PAGE);
  press(PRESSURE);
  CHECK(mremap(memory, 2 * COUNT * PAGE, 3 * COUNT * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
  CHECK(is_filled(memory, COUNT, 1) && is_filled(memory + COUNT * PAGE, COUNT, 90));
  // The last part of it alone: moves, and leaves the rest.
  press(PRESSURE);
  char *moved = mremap(memory + COUNT * PAGE, COUNT * PAGE, 3 * COUNT * PAGE, MREMAP_MAYMOVE);
  CHECK(moved != MAP_FAILED && is_filled(moved, COUNT, 90) && is_zero(moved + COUNT * PAGE, 2 * COUNT));
  CHECK(is_filled(memory, COUNT, 1) && is_gone(memory + COUNT * PAGE));
}

static void shrinks(void) {
  char *memory = filled(COUNT, 2), *target = filled(COUNT, 30);
  press(PRESSURE);
  CHECK(mremap(memory, COUNT * PAGE, 40 * PAGE, 0) == memory);
  CHECK(is_filled(memory, 40, 2) && is_gone(memory + 40 * PAGE) && is_gone(memory + (COUNT - 1) * PAGE));
  press(PRESSURE);
  // It shrinks on its way, onto the middle of other memory.
  CHECK(mremap(memory, 40 * PAGE, 16 * PAGE, FIXED, target + 8 * PAGE) == target + 8 * PAGE);
  CHECK(is_gone(memory) && is_gone(memory + 39 * PAGE));
  CHECK(is_filled(target, 8, 30) && is_filled(target + 8 * PAGE, 16, 2) && is_filled(target + 24 * PAGE, COUNT - 24, 54));
  press(PRESSURE);
  CHECK(is_filled(target + 8 * PAGE, 16, 2) && is_filled(target + 24 * PAGE, COUNT - 24, 54));
  // And grows on its way.
  char *other = pages(COUNT);
  CHECK(mremap(target + 8 * PAGE, 16 * PAGE, 32 * PAGE, FIXED, other) == other);
  CHECK(is_filled(other, 16, 2) && is_zero(other + 16 * PAGE, COUNT - 16) && is_gone(target + 8 * PAGE));
}

static void keeps(void) {
  char *memory = filled(COUNT, 3), *target = filled(COUNT, 40);
  press(PRESSURE);
  char *moved = mremap(memory, COUNT * PAGE, COUNT * PAGE, KEEP, NULL);
  CHECK(moved != MAP_FAILED && is_filled(moved, COUNT, 3) && is_zero(memory, COUNT));
  fill(memory, COUNT, 70);
  press(PRESSURE);
  CHECK(is_filled(memory, COUNT, 70) && is_filled(moved, COUNT, 3));
  CHECK(mremap(moved, COUNT * PAGE, COUNT * PAGE, KEEP | FIXED, target) == target);
  CHECK(is_filled(target, COUNT, 3) && is_zero(moved, COUNT));
  CHECK(mremap(target, COUNT * PAGE, COUNT / 2 * PAGE, KEEP, NULL) == MAP_FAILED && errno == EINVAL);
  press(PRESSURE);
  CHECK(is_filled(target, COUNT, 3));
}

static void refuses(void) {
  char *memory = filled(COUNT, 4);
  press(PRESSURE);
  CHECK(mremap(memory, COUNT * PAGE, COUNT * PAGE, FIXED, memory + 8 * PAGE) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap(memory + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap(memory, COUNT * PAGE, 0, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap(memory, 0, COUNT * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap(memory, COUNT * PAGE, COUNT * PAGE, MREMAP_FIXED, room(COUNT)) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap(room(COUNT), COUNT * PAGE, 2 * COUNT * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
  // A range that ends in a hole: refused, or moved as far as it goes, by the kernel's version; nothing is lost.
  munmap(memory + 32 * PAGE, 8 * PAGE);
  CHECK(mremap(memory, COUNT * PAGE, 2 * COUNT * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
  CHECK(is_filled(memory, 32, 4) && is_filled(memory + 40 * PAGE, COUNT - 40, 44));
}

// Several mappings at once: the kernel may refuse that (EFAULT) or do it, from Linux 6.17 on.
static void several(void) {
  char *memory = filled(COUNT, 5), *target = room(COUNT);
  CHECK(mprotect(memory + 16 * PAGE, 16 * PAGE, PROT_READ) == 0);
  press(PRESSURE);
  char *moved = mremap(memory, COUNT * PAGE, COUNT * PAGE, FIXED, target);
  CHECK(moved == target || (moved == MAP_FAILED && errno == EFAULT));
  char *now = moved == MAP_FAILED ? memory : moved;
  CHECK(is_filled(now, COUNT, 5));
  if (moved != MAP_FAILED) CHECK(is_gone(memory) && is_gone(memory + (COUNT - 1) * PAGE));
  // What may be read alone moves as it is.
  target = room(COUNT);
  press(PRESSURE);
  CHECK(mremap(now + 16 * PAGE, 16 * PAGE, 16 * PAGE, FIXED, target) == target && is_filled(target, 16, 21));
  CHECK(is_gone(now + 16 * PAGE));
  CHECK(mprotect(target, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
  target[0] = 9;
  press(PRESSURE);
  CHECK(target[0] == 9 && is_filled(target + PAGE, 15, 22));
}

static void shared_memory(void) {
  char *memory = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fill(memory, COUNT, 6);
  // Without a length: the same memory in two places.
  char *twice = mremap(memory, 0, COUNT * PAGE, MREMAP_MAYMOVE);
  CHECK(twice != MAP_FAILED && is_filled(twice, COUNT, 6));
  twice[0] = 100;
  CHECK(memory[0] == 100);
  char *target = filled(COUNT, 7);
  press(PRESSURE);
  CHECK(mremap(twice, COUNT * PAGE, COUNT * PAGE, FIXED, target) == target && target[0] == 100 && is_gone(twice));
  press(PRESSURE);
  // Private memory takes the place of shared memory as well.
  char *private = filled(COUNT, 8);
  press(PRESSURE);
  CHECK(mremap(private, COUNT * PAGE, COUNT * PAGE, FIXED, target) == target && is_filled(target, COUNT, 8));
  press(PRESSURE);
  CHECK(is_filled(target, COUNT, 8) && memory[0] == 100);
}

// Threads use their own pages while others move, and a child has what was there when it was born.
static volatile int done;
static char *used;
static void *use(void *argument) {
  size_t self = (size_t)argument;
  for (char round = 1; !done; round++) {
    for (int i = 0; i < COUNT; i++) used[(self * COUNT + (size_t)i) * PAGE] = round;
    for (int i = 0; i < COUNT; i++) CHECK(used[(self * COUNT + (size_t)i) * PAGE] == round);
  }
  return NULL;
}
static void beside_threads(void) {
  enum { THREADS = 4 };
  pthread_t threads[THREADS];
  used = pages(THREADS * COUNT);
  for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, use, (void *)i) == 0);
  char *memory = filled(COUNT, 9);
  for (int round = 0; round < 20; round++) {
    char *target = room(COUNT + 1) + (round & 1) * PAGE;
    if (round % 5 == 0) press(PRESSURE);
    pid_t child = round % 4 == 0 ? fork() : -1;
    if (child == 0) {
      char *moved = mremap(memory, COUNT * PAGE, COUNT * PAGE, FIXED, target);
      _exit(moved != target || !is_filled(target, COUNT, 9));
    }
    char *moved = mremap(memory, COUNT * PAGE, COUNT * PAGE, MREMAP_MAYMOVE | (round & 2 ? MREMAP_FIXED : 0), target);
    CHECK(moved != MAP_FAILED);
    memory = moved;
    CHECK(is_filled(memory, COUNT, 9));
    int status = -1;
    if (child > 0) CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  done = 1;
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(void) {
  signal(SIGSEGV, on_fault);
  grows();
  shrinks();
  keeps();
  refuses();
  several();
  shared_memory();
  beside_threads();
  return check_result();
}
