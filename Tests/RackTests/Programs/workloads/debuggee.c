// Threads, memory beyond the local budget, and a crash where asked for: what a debugger is pointed at.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long *numbers;
static const long count = 3l << 20;
static pthread_barrier_t ready;

__attribute__((noinline)) static long inner(long depth, long value) {
  if (depth == 0) return numbers[value];
  return inner(depth - 1, value) + 1;
}

__attribute__((noinline)) static void crash(long value) {
  volatile long *nowhere = NULL;
  *nowhere = value;
}

static void *work(void *argument) {
  long first = (long)argument;
  pthread_barrier_wait(&ready);
  long sum = inner(3, first);
  pthread_barrier_wait(&ready);
  return (void *)sum;
}

int main(int argc, char **argv) {
  pthread_t threads[3];
  numbers = malloc(count * sizeof *numbers);
  for (long i = 0; i < count; i++) numbers[i] = i * 3;
  pthread_barrier_init(&ready, NULL, 4);
  for (long i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, (void *)(i * 1000));
  pthread_barrier_wait(&ready);
  if (argc > 1 && !strcmp(argv[1], "crash")) crash(numbers[count - 1]);
  pthread_barrier_wait(&ready);
  long total = 0;
  for (int i = 0; i < 3; i++) {
    void *sum;
    pthread_join(threads[i], &sum);
    total += (long)sum;
  }
  printf("%ld\n", total);
  if (argc > 1 && !strcmp(argv[1], "wait")) {
    puts("waiting");
    fflush(stdout);
    while (numbers[1] == 3) sched_yield();
    printf("%ld\n", numbers[1]);
  }
  return 5;
}
