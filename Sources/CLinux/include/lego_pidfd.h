// pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2): processes by descriptor, immune to pid reuse.
#pragma once
#include <sys/types.h>

int lego_pidfd_open(pid_t pid);
int lego_pidfd_getfd(int pidfd, int target_descriptor);
int lego_pidfd_send_signal(int pidfd, int signal_number);
// Whether all threads of the process have ended. Nobody need have reaped it, until when signals can still be sent to it.
int lego_pidfd_has_ended(int pidfd);
