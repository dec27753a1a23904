// Forks while three threads write: each child sees every page either before or after a write, and sees it twice alike.
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>

enum { COUNT = 6000, THREADS = 3, WORDS = PAGE / sizeof(long) };
static volatile unsigned long *words;
static volatile int stop;

static void *work(void *argument) {
  unsigned long self = (unsigned long)argument, random = self + 1;
  while (!stop) {
    random = random * 6364136223846793005ul + 1;
    volatile unsigned long *page = words + ((random >> 33) % (COUNT / THREADS) * THREADS + self) * WORDS;
    unsigned long value = page[7] + 1;
    page[7] = value;
    page[300] = value;
  }
  return NULL;
}

static unsigned long digest(unsigned long *torn) {
  unsigned long sum = 0;
  for (int i = 0; i < COUNT; i++) {
    *torn += words[i * WORDS + 7] - words[i * WORDS + 300] > 1;
    sum += words[i * WORDS + 7] * (unsigned long)(i + 1);
  }
  return sum;
}

int main(void) {
  words = (unsigned long *)pages(COUNT);
  pthread_t threads[THREADS];
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  for (int generation = 0; generation < 8; generation++) {
    press(500);
    pid_t child = fork();
    if (child == 0) {
      unsigned long torn = 0, first = digest(&torn), second = digest(&torn);
      _exit((torn != 0) | (first != second) << 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  stop = 1;
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < COUNT; i++) CHECK(words[i * WORDS + 7] == words[i * WORDS + 300]);
  return check_result();
}
