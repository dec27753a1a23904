// pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2): processes by descriptor, immune to pid reuse.
#pragma once
#include <sys/types.h>

int lego_pidfd_open(pid_t pid);
int lego_pidfd_getfd(int pidfd, int target_descriptor);
int lego_pidfd_send_signal(int pidfd, int signal_number);
