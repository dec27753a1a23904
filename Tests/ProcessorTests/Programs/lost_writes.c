// Four threads, a signal handler and the kernel write to words of the same pages while those are being evicted, the
// process forks in between, and a part of the memory is made read-only and writable again: every write must be there
// in the end, and a child sees its own alone.
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { COUNT = 6000, THREADS = 4, ROUNDS = 30000, WORDS = PAGE / sizeof(long), PROTECTED = 256 };
// Words of a page: one for each thread, one for the kernel, one for the handler.
enum { KERNEL = THREADS, HANDLER = THREADS + 1 };
static unsigned long *words;
static unsigned long by_kernel;
static volatile unsigned long by_handler;
static volatile int done;
static sigset_t alarms;

static unsigned long next(unsigned long *state) { return (*state = *state * 6364136223846793005ul + 1) >> 33; }

static void handle(int number) {
  static unsigned long random = 99;
  (void)number;
  for (int i = 0; i < 4; i++) {
    words[PROTECTED * WORDS + next(&random) % (COUNT - PROTECTED) * WORDS + HANDLER]++;
    by_handler++;
  }
}

static void *work(void *argument) {
  unsigned long self = (unsigned long)argument, random = self * 7919 + 1;
  // One thread handles all signals, most of which interrupt it in a fault.
  if (self == 0) pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
  for (int i = 0; i < ROUNDS; i++)
    words[PROTECTED * WORDS + next(&random) % (COUNT - PROTECTED) * WORDS + self]++;
  return NULL;
}

// read(2) writes from within the kernel.
static void *read_in(void *argument) {
  unsigned long random = 5, one;
  int ends[2];
  (void)argument;
  if (pipe(ends)) abort();
  while (!done) {
    unsigned long *word = words + (PROTECTED + next(&random) % (COUNT - PROTECTED)) * WORDS + KERNEL;
    one = *word + 1;
    if (write(ends[1], &one, sizeof one) != sizeof one || read(ends[0], word, sizeof one) != sizeof one) abort();
    by_kernel++;
  }
  return NULL;
}

static void *protect(void *argument) {
  unsigned long count = 0;
  (void)argument;
  while (!done) {
    for (int i = 0; i < PROTECTED; i++) words[i * WORDS]++;
    count++;
    mprotect(words, PROTECTED * PAGE, PROT_READ);
    for (int i = 0; i < PROTECTED; i++) if (words[i * WORDS] != count) abort();
    mprotect(words, PROTECTED * PAGE, PROT_NONE);
    sched_yield();
    mprotect(words, PROTECTED * PAGE, PROT_READ | PROT_WRITE);
  }
  return NULL;
}

static unsigned long sum(int word) {
  unsigned long total = 0;
  for (int i = PROTECTED; i < COUNT; i++) total += words[i * WORDS + word];
  return total;
}

int main(void) {
  words = (unsigned long *)pages(COUNT);
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &alarms, NULL);
  signal(SIGALRM, handle);
  pthread_t threads[THREADS], reader, protector;
  pthread_create(&reader, NULL, read_in, NULL);
  pthread_create(&protector, NULL, protect, NULL);
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  struct timespec interval = {0, 500000};
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  timer_settime(timer, 0, &(struct itimerspec){interval, interval}, NULL);
  for (int i = 0; i < 8; i++) {
    pid_t child = fork();
    if (child == 0) {
      // What is the child's alone stays so.
      for (int at = PROTECTED; at < COUNT; at += 7) words[at * WORDS] = 1ul << 60;
      _exit(0);
    }
    int status = -1;
    while (waitpid(child, &status, 0) < 0) {}
    CHECK(status == 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  timer_delete(timer);
  done = 1;
  pthread_join(reader, NULL);
  pthread_join(protector, NULL);
  for (int i = 0; i < THREADS; i++) CHECK(sum(i) == ROUNDS);
  CHECK(sum(KERNEL) == by_kernel);
  CHECK(sum(HANDLER) == by_handler);
  return check_result();
}
