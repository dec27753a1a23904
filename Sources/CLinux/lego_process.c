#define _GNU_SOURCE
#include "lego_process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { SPAWN_DESCRIPTORS_MAX = 16, PIDFD_GROUP_FLAG = 1 << 2 /* PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9 */ };

// Moves the descriptors out of the way of their final numbers, so that the order of the dup2 calls does not matter.
static int plan_descriptors(posix_spawn_file_actions_t *actions, const int *descriptors, int *copies, size_t count) {
  for (size_t i = 0; i < count; i++) {
    copies[i] = fcntl(descriptors[i], F_DUPFD_CLOEXEC, SPAWN_DESCRIPTORS_MAX);
    if (copies[i] < 0) return errno;
    int error = posix_spawn_file_actions_adddup2(actions, copies[i], (int)i);
    if (error) return error;
  }
  return posix_spawn_file_actions_addclosefrom_np(actions, (int)count);
}

static int plan_attributes(posix_spawnattr_t *attributes) {
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  int error = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  if (!error) error = posix_spawnattr_setsigdefault(attributes, &all);
  if (!error) error = posix_spawnattr_setsigmask(attributes, &none);
  return error;
}

pid_t lego_spawn(const char *path, const char *const *arguments, const int *descriptors, size_t descriptor_count) {
  if (descriptor_count > SPAWN_DESCRIPTORS_MAX) return -EINVAL;
  int copies[SPAWN_DESCRIPTORS_MAX];
  for (size_t i = 0; i < SPAWN_DESCRIPTORS_MAX; i++) copies[i] = -1;
  char *const environment[] = {NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int error = posix_spawn_file_actions_init(&actions);
  if (error) return -error;
  error = posix_spawnattr_init(&attributes);
  if (error) {
    posix_spawn_file_actions_destroy(&actions);
    return -error;
  }
  pid_t process = -1;
  error = plan_descriptors(&actions, descriptors, copies, descriptor_count);
  if (!error) error = plan_attributes(&attributes);
  if (!error) error = posix_spawn(&process, path, &actions, &attributes, (char *const *)arguments, environment);
  for (size_t i = 0; i < descriptor_count; i++)
    if (copies[i] >= 0) close(copies[i]);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error ? -error : process;
}

int lego_pidfd_reap(int pidfd, int wait, int *status) {
  siginfo_t information = {0};
  int result;
  do
    result = waitid(P_PIDFD, (id_t)pidfd, &information, WEXITED | __WALL | (wait ? 0 : WNOHANG));
  while (result < 0 && errno == EINTR);
  if (result < 0) return -errno;
  if (information.si_pid == 0) return 0;
  *status = information.si_code == CLD_EXITED ? W_EXITCODE(information.si_status, 0) : information.si_status;
  return 1;
}

int lego_pidfd_signal_group(int pidfd, pid_t leader, int signal_number) {
  if (syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, PIDFD_GROUP_FLAG) == 0) return 0;
  if (errno != EINVAL) return -errno;
  // The number is the leader's as long as the pidfd takes signals, but for the blink between the two calls.
  if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0) return -errno;
  return kill(-leader, signal_number) < 0 ? -errno : 0;
}

int lego_robust_list(pid_t thread, uint64_t *head) {
  void *list = NULL;
  size_t bytes = 0;
  if (syscall(SYS_get_robust_list, thread, &list, &bytes) < 0) return -errno;
  *head = (uint64_t)(uintptr_t)list;
  return 0;
}

int lego_get_limit(pid_t process, enum lego_limit limit, uint64_t *soft, uint64_t *hard) {
  struct rlimit found;
  if (prlimit(process, (enum __rlimit_resource)limit, NULL, &found) < 0) return -errno;
  *soft = found.rlim_cur;
  *hard = found.rlim_max;
  return 0;
}

int lego_set_limit(pid_t process, enum lego_limit limit, uint64_t soft, uint64_t hard) {
  struct rlimit wanted = {.rlim_cur = soft, .rlim_max = hard};
  return prlimit(process, (enum __rlimit_resource)limit, &wanted, NULL) < 0 ? -errno : 0;
}

int lego_raise_descriptor_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

ssize_t lego_system_information(void *buffer, size_t capacity, uint64_t total, uint64_t free) {
  struct sysinfo information;
  if (capacity < sizeof information) return -EINVAL;
  if (sysinfo(&information) < 0) return -errno;
  information.mem_unit = 1;
  information.totalram = total;
  information.freeram = free;
  information.sharedram = information.bufferram = 0;
  information.totalswap = information.freeswap = 0;
  information.totalhigh = information.freehigh = 0;
  memcpy(buffer, &information, sizeof information);
  return sizeof information;
}
