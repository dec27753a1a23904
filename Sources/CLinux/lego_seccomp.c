#define _GNU_SOURCE
#include "lego_seccomp.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1UL
#endif

static int result_of(int result) { return result < 0 ? -errno : result; }

int lego_seccomp_receive(int listener, struct lego_notification *notification) {
  struct seccomp_notif raw;
  memset(&raw, 0, sizeof raw);
  if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &raw) < 0) return -errno;
  notification->id = raw.id;
  notification->listener = listener;
  notification->thread = (int32_t)raw.pid;
  notification->number = (uint32_t)raw.data.nr;
  for (int i = 0; i < 6; i++) notification->arguments[i] = raw.data.args[i];
  return 0;
}

int lego_seccomp_answer(int listener, uint64_t id, int64_t value) {
  struct seccomp_notif_resp answer = {.id = id};
  if (value < 0 && value > -4096)
    answer.error = (int)value;
  else
    answer.val = value;
  return result_of(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer));
}

int lego_seccomp_continue(int listener, uint64_t id) {
  struct seccomp_notif_resp answer = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
  return result_of(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer));
}

int lego_seccomp_add_descriptor(int listener, uint64_t id, int descriptor) {
  struct seccomp_notif_addfd add = {.id = id, .srcfd = (__u32)descriptor, .newfd_flags = O_CLOEXEC};
  return result_of(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
}

int lego_seccomp_check(int listener, uint64_t id) {
  return result_of(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id));
}

int lego_seccomp_wake_in_place(int listener) {
  return result_of(ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP));
}

int lego_seccomp_knows_flags(uint64_t flags) {
  // The kernel looks at the flags first: EFAULT means that it went on to the absent program.
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL);
  if (result < 0 && errno == EFAULT) return 0;
  return result < 0 ? -errno : -EINVAL;
}
