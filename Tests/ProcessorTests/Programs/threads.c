// Four threads write tagged pages at random and verify them, map, move and unmap memory, and start threads that end at
// once.
#include "check.h"
#include <pthread.h>

enum { COUNT = 8000, THREADS = 4, ROUNDS = 20000, WORDS = PAGE / sizeof(long) };
static unsigned long *words;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long written;

static void churn(void) {
  for (int i = 0; i < 30; i++) {
    size_t bytes = (size_t)(1 + i % 16) * 65536;
    char *memory = pages(bytes / PAGE);
    memset(memory, i + 1, bytes);
    memory = mremap(memory, bytes, bytes * 2, MREMAP_MAYMOVE);
    if (memory == MAP_FAILED) abort();
    for (size_t at = 0; at < bytes; at += 512)
      if (memory[at] != (char)(i + 1)) abort();
    for (size_t at = bytes; at < 2 * bytes; at += PAGE)
      if (memory[at] != 0) abort();
    madvise(memory, bytes / 2, MADV_DONTNEED);
    for (size_t at = 0; at < bytes / 2; at += PAGE)
      if (memory[at] != 0) abort();
    munmap(memory, bytes * 2);
  }
}

static void *work(void *argument) {
  unsigned long self = (unsigned long)argument, random = self * 7919 + 1, count = 0;
  for (int i = 0; i < ROUNDS; i++) {
    random = random * 6364136223846793005ul + 1;
    unsigned long *page = words + ((random >> 33) % (COUNT / THREADS) * THREADS + self) * WORDS;
    if (page[7] != page[300]) abort();
    page[7]++;
    page[300]++;
    count++;
  }
  churn();
  pthread_mutex_lock(&lock);
  written += count;
  pthread_mutex_unlock(&lock);
  return NULL;
}
static void *nothing(void *argument) { return argument; }

int main(void) {
  words = (unsigned long *)pages(COUNT);
  pthread_t threads[THREADS];
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  unsigned long sum = 0;
  for (int i = 0; i < COUNT; i++) sum += words[i * WORDS + 7];
  CHECK(sum == written && written == THREADS * ROUNDS);
  for (int i = 0; i < 100; i++) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, nothing, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  return check_result();
}
