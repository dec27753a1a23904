#define _GNU_SOURCE
#include "lego_pidfd.h"
#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

int lego_pidfd_open(pid_t pid) {
  long result = syscall(SYS_pidfd_open, pid, 0);
  return result < 0 ? -errno : (int)result;
}

int lego_pidfd_getfd(int pidfd, int target_descriptor) {
  long result = syscall(SYS_pidfd_getfd, pidfd, target_descriptor, 0);
  return result < 0 ? -errno : (int)result;
}

int lego_pidfd_send_signal(int pidfd, int signal_number) {
  long result = syscall(SYS_pidfd_send_signal, pidfd, signal_number, NULL, 0);
  return result < 0 ? -errno : 0;
}

int lego_pidfd_has_ended(int pidfd) {
  struct pollfd entry = {.fd = pidfd, .events = POLLIN};
  int count;
  while ((count = poll(&entry, 1, 0)) < 0 && errno == EINTR) {
  }
  return count > 0 && entry.revents != 0;
}
