// A bare pager: the least that a program's page faults cost when another thread serves them from local memory, and so the floor of
// what any userfaultfd(2) pager can reach. One array, one program thread, one handler on its processor; first in, first out; 64 pages
// leave at a time, copied back whole and dropped with one call. No network, no prefetch, no table but an array; safe only because the
// sole thread waits meanwhile.
#pragma once
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGER_BATCH = 64 };

static struct {
  char *memory, *store;
  uint64_t pages, local, head, tail;
  uint32_t *queue; // `local` + 1 resident pages, a ring
  int userfault, self;
} pager;

static void pager_fail(const char *what) {
  perror(what);
  exit(1);
}

static void pager_evict(void) {
  struct iovec gone[PAGER_BATCH];
  int count = 0;
  for (; count < PAGER_BATCH && pager.head != pager.tail; count++, pager.head++) {
    uint64_t at = (uint64_t)pager.queue[pager.head % pager.local] * 4096;
    memcpy(pager.store + at, pager.memory + at, 4096);
    gone[count] = (struct iovec){pager.memory + at, 4096};
  }
  if (syscall(SYS_process_madvise, pager.self, gone, count, MADV_DONTNEED, 0) != count * 4096l) pager_fail("process_madvise");
}

static void *pager_serve(void *argument) {
  (void)argument;
  struct uffd_msg message;
  while (read(pager.userfault, &message, sizeof message) == sizeof message) {
    uint64_t at = (message.arg.pagefault.address & ~4095ull) - (uint64_t)pager.memory;
    if (pager.tail - pager.head == pager.local) pager_evict();
    pager.queue[pager.tail++ % pager.local] = (uint32_t)(at / 4096);
    struct uffdio_copy copy = {.dst = (uint64_t)pager.memory + at, .src = (uint64_t)pager.store + at, .len = 4096};
    if (ioctl(pager.userfault, UFFDIO_COPY, &copy)) pager_fail("UFFDIO_COPY");
  }
  return NULL;
}

// Serves the faults of `memory` with at most `local` pages of it present.
static void pager_start(void *memory, uint64_t pages, uint64_t local) {
  pager.memory = memory;
  pager.pages = pages;
  pager.local = local;
  pager.queue = calloc(local, sizeof *pager.queue);
  pager.store = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!pager.queue || pager.store == MAP_FAILED) pager_fail("store");
  memset(pager.store, 0, pages * 4096); // remote memory exists before the program starts
  pager.self = (int)syscall(SYS_pidfd_open, getpid(), 0);
  pager.userfault = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API};
  struct uffdio_register range = {.range = {(uint64_t)memory, pages * 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (pager.self < 0 || pager.userfault < 0 || ioctl(pager.userfault, UFFDIO_API, &api) ||
      ioctl(pager.userfault, UFFDIO_REGISTER, &range))
    pager_fail("userfaultfd");
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  if (sched_setaffinity(0, sizeof one, &one)) pager_fail("sched_setaffinity"); // inherited by the handler
  pthread_t thread;
  if (pthread_create(&thread, NULL, pager_serve, NULL)) pager_fail("pthread_create");
  pthread_detach(thread);
}
