#define _GNU_SOURCE
#include "lego_thread.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void lego_thread_set_name(const char *name) {
  char kept[16] = {0};
  strncpy(kept, name, sizeof kept - 1);
  pthread_setname_np(pthread_self(), kept);
}

pid_t lego_thread_id(void) { return (pid_t)syscall(SYS_gettid); }

int lego_thread_set_affinity(pid_t thread, const uint64_t *mask, size_t words) {
  return syscall(SYS_sched_setaffinity, thread, words * sizeof *mask, mask) < 0 ? -errno : 0;
}

int lego_thread_get_affinity(pid_t thread, uint64_t *mask, size_t words) {
  memset(mask, 0, words * sizeof *mask);
  return syscall(SYS_sched_getaffinity, thread, words * sizeof *mask, mask) < 0 ? -errno : 0;
}

int lego_thread_processor(void) { return sched_getcpu(); }

int64_t lego_process_time(pid_t process) {
  clockid_t clock;
  struct timespec time;
  int error = clock_getcpuclockid(process, &clock);
  if (error) return -error;
  if (clock_gettime(clock, &time) < 0) return -errno;
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

void lego_thread_set_timer_slack(unsigned long nanoseconds) { prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0); }
