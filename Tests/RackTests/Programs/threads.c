// Four threads share an array and keep its pages consistent while memory is mapped, grown, dropped and unmapped around them.
// Prints "threads ok N" when every check held.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGES = 20000, THREADS = 4, ROUNDS = 40000, WORDS = 512 };
static uint64_t *array;

static void require(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "threads: %s\n", what);
  abort();
}

// Each thread owns every fourth page; two words of a page always hold the same count.
static uint64_t count_pages(uint64_t thread) {
  uint64_t random = thread * 7919 + 1, done = 0;
  for (int i = 0; i < ROUNDS; i++) {
    random = random * 6364136223846793005ULL + 1;
    uint64_t *page = array + ((random >> 33) % (PAGES / THREADS) * THREADS + thread) * WORDS;
    require(page[7] == page[300], "a page lost a write");
    page[7]++, page[300]++, done++;
  }
  return done;
}

static void churn(void) {
  for (int i = 0; i < 50; i++) {
    size_t bytes = (size_t)(1 + (i & 15)) * 65536;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "mmap failed");
    memset(memory, i + 1, bytes);
    memory = mremap(memory, bytes, bytes * 2, MREMAP_MAYMOVE);
    require(memory != MAP_FAILED, "mremap failed");
    for (size_t at = 0; at < bytes; at += 512) require(memory[at] == (char)(i + 1), "mremap lost data");
    for (size_t at = bytes; at < bytes * 2; at += 4096) require(memory[at] == 0, "grown memory is not zero");
    require(madvise(memory, bytes / 2, MADV_DONTNEED) == 0, "madvise failed");
    for (size_t at = 0; at < bytes / 2; at += 4096) require(memory[at] == 0, "dropped memory is not zero");
    require(munmap(memory, bytes * 2) == 0, "munmap failed");
  }
}

static void *work(void *argument) {
  uint64_t thread = (uint64_t)(uintptr_t)argument, done = count_pages(thread);
  churn();
  return (void *)(uintptr_t)done;
}

static void *nothing(void *argument) { return argument; }

int main(void) {
  array = mmap(NULL, (size_t)PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(array != MAP_FAILED, "mmap failed");
  pthread_t threads[THREADS];
  uint64_t done = 0, sum = 0;
  for (uintptr_t i = 0; i < THREADS; i++) require(!pthread_create(&threads[i], NULL, work, (void *)i), "no thread");
  for (int i = 0; i < THREADS; i++) {
    void *result;
    pthread_join(threads[i], &result);
    done += (uint64_t)(uintptr_t)result;
  }
  for (int page = 0; page < PAGES; page++) sum += array[(size_t)page * WORDS + 7];
  require(sum == done, "counts differ");
  for (int i = 0; i < 200; i++) { // a thread that ends while its own stack page is away must still be joined
    pthread_t thread;
    require(!pthread_create(&thread, NULL, nothing, NULL), "no thread");
    pthread_join(thread, NULL);
  }
  printf("threads ok %lu\n", (unsigned long)sum);
  return 0;
}
