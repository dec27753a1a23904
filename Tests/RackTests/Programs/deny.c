// deny: runs a program on what looks like a kernel without a feature. A seccomp filter answers one system call with an
// error, always or only when one argument has a given value.
//
//   deny CALL ERROR [ARGUMENT VALUE] -- PROGRAM [ARG]...     e.g.  deny ioctl EPERM 1 0xaa00 -- lego-processor
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct named {
  const char *name;
  int value;
};
static const struct named calls[] = {
    {"ioctl", SYS_ioctl},       {"seccomp", SYS_seccomp},           {"pidfd_open", SYS_pidfd_open},
    {"mount", SYS_mount},       {"pidfd_getfd", SYS_pidfd_getfd},   {"unshare", SYS_unshare},
    {"memfd", SYS_memfd_create}, {"clone", SYS_clone},               {"eventfd", SYS_eventfd2}, {NULL, 0}};
static const struct named errors[] = {
    {"EPERM", EPERM}, {"ENOSYS", ENOSYS}, {"EINVAL", EINVAL}, {"ENODEV", ENODEV}, {NULL, 0}};

static int find(const struct named *table, const char *name) {
  for (; table->name; table++)
    if (!strcmp(table->name, name)) return table->value;
  fprintf(stderr, "deny: unknown name %s\n", name);
  exit(64);
}

int main(int count, char **words) {
  int has_argument = count > 5 && !strcmp(words[5], "--");
  int first = has_argument ? 6 : 4;
  if (count <= first || strcmp(words[first - 1], "--")) return 64;
  unsigned index = has_argument ? (unsigned)atoi(words[3]) : 0;
  unsigned value = has_argument ? (unsigned)strtoul(words[4], NULL, 0) : 0;
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)find(calls, words[1]), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, args) + index * 8),
      BPF_JUMP(BPF_JMP | (has_argument ? BPF_JEQ : BPF_JGE) | BPF_K, value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)find(errors, words[2])),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  // As root, so that the program may still change its users.
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
    perror("deny: seccomp");
    return 71;
  }
  execvp(words[first], words + first);
  perror("deny: exec");
  return 127;
}
