// posix_spawn(3), pipe2(2), waitid(2) on a pidfd, signals to a process group by pidfd: the life of child processes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// Starts path with the given arguments, an empty environment and a session of its own. descriptors[i] becomes
// descriptor i of the new process, which has no others; signals have their default disposition and none is blocked.
// Answers the process number.
pid_t lego_spawn(const char *path, const char *const *arguments, const int *descriptors, size_t descriptor_count);


// Reaps the child behind pidfd. Answers 1 and its status as wait(2) tells it, or 0 when it still runs and wait is 0.
int lego_pidfd_reap(int pidfd, int wait, int *status);
// Signals the process group that the process behind pidfd leads; leader is its number, for kernels before 6.9.
int lego_pidfd_signal_group(int pidfd, pid_t leader, int signal_number);

// Limits, as <sys/resource.h> numbers them.
enum lego_limit {
  LEGO_LIMIT_DATA = 2,
  LEGO_LIMIT_PROCESSES = 6,
  LEGO_LIMIT_DESCRIPTORS = 7,
  LEGO_LIMIT_LOCKED = 8,
  LEGO_LIMIT_ADDRESS_SPACE = 9,
};
// What a process has of a limit (prlimit(2)). Answers 0 or -errno: -EPERM for another user's, without CAP_SYS_RESOURCE.
int lego_get_limit(pid_t process, enum lego_limit limit, uint64_t *soft, uint64_t *hard);
// Sets it. Answers 0 or -errno: -EPERM as above, and for more than its hard limit.
int lego_set_limit(pid_t process, enum lego_limit limit, uint64_t soft, uint64_t hard);
// Where a thread says that its robust futexes are listed (get_robust_list(2)); 0: nowhere.
int lego_robust_list(pid_t thread, uint64_t *head);

// struct sysinfo of this host with other memory: so many bytes, so many of them free, and no swap. Answers its size, or
// -errno.
ssize_t lego_system_information(void *buffer, size_t capacity, uint64_t total, uint64_t free);
// Lifts the soft limit of open descriptors to the hard one.
int lego_raise_descriptor_limit(void);
