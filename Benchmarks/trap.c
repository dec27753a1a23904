// What a trapped system call costs, and what one that is not trapped does.
//
//   trap
//
// Prints the median in microseconds of an mmap of 16 KiB (the munmap is not counted), of a munmap, and of a getppid.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 2001 };
static double taken[3][ROUNDS];

static double microseconds_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int compare(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

int main(void) {
  for (int i = 0; i < ROUNDS; i++) {
    double start = microseconds_now();
    void *place = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double mapped = microseconds_now();
    if (place == MAP_FAILED || munmap(place, 16384)) return 1;
    double unmapped = microseconds_now();
    for (int j = 0; j < 10; j++) syscall(SYS_getppid);
    taken[0][i] = mapped - start, taken[1][i] = unmapped - mapped, taken[2][i] = (microseconds_now() - unmapped) / 10;
  }
  for (int i = 0; i < 3; i++) qsort(taken[i], ROUNDS, sizeof(double), compare);
  printf("mmap %.2f munmap %.2f getppid %.3f\n", taken[0][ROUNDS / 2], taken[1][ROUNDS / 2], taken[2][ROUNDS / 2]);
  return 0;
}
