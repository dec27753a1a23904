// posix_spawn(3), pipe2(2), waitid(2) on a pidfd, signals to a process group by pidfd: the life of child processes.
#pragma once
#include <stddef.h>
#include <sys/types.h>

// Starts path with the given arguments, an empty environment and a session of its own. descriptors[i] becomes
// descriptor i of the new process, which has no others; signals have their default disposition and none is blocked.
// Answers the process number.
pid_t lego_spawn(const char *path, const char *const *arguments, const int *descriptors, size_t descriptor_count);


// Reaps the child behind pidfd. Answers 1 and its status as wait(2) tells it, or 0 when it still runs and wait is 0.
int lego_pidfd_reap(int pidfd, int wait, int *status);
// Signals the process group that the process behind pidfd leads; leader is its number, for kernels before 6.9.
int lego_pidfd_signal_group(int pidfd, pid_t leader, int signal_number);

// Lifts the soft limit of open descriptors to the hard one.
int lego_raise_descriptor_limit(void);
