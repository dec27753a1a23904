// Starts a program as the sandbox does, as far as a monitor can tell: in a pid namespace of its own, under the filter
// that arrives on descriptor 3, whose listener goes back there. launcher SECONDS PROGRAM [ARGUMENT]... Ends as the
// program does (128 + signal), or with 124 after SECONDS. Nothing of the program outlives it.
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

static void die(const char *what) {
  perror(what);
  _exit(125);
}

static pid_t init_process;
static void too_late(int number) {
  (void)number;
  kill(init_process, SIGKILL);
  _exit(124);
}

static void send_listener(int listener) {
  char byte = 'l', space[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &listener, sizeof listener);
  if (sendmsg(3, &message, 0) != 1) die("sendmsg");
}

static void run_program(char **arguments) {
  static char filter[4096];
  ssize_t bytes = recv(3, filter, sizeof filter, 0);
  if (bytes <= 0) die("recv of the filter");
  struct sock_fprog program = {(unsigned short)(bytes / sizeof(struct sock_filter)), (struct sock_filter *)filter};
  if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("prctl");
  int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                              SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
  if (listener < 0) die("seccomp");
  send_listener(listener);
  char go;
  if (recv(3, &go, 1, 0) != 1) die("recv of the start");
  syscall(SYS_close_range, 3, ~0U, 0);
  execvp(arguments[0], arguments);
  _exit(127);
}

// The first process of the namespace: reaps, and ends as the program does.
static void run_init(char **arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pid_t program = fork(), ended;
  if (program < 0) die("fork");
  if (program == 0) run_program(arguments);
  syscall(SYS_close_range, 3, ~0U, 0);
  int status;
  while ((ended = wait(&status)) != program)
    if (ended < 0) _exit(125);
  _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

int main(int count, char **arguments) {
  if (count < 3) return 125;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setsid();
  // A test runner's threads block signals; neither the deadline below nor the program may inherit that.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (chdir("/")) die("chdir");
  if (unshare(CLONE_NEWPID)) die("unshare");
  init_process = fork();
  if (init_process < 0) die("fork");
  if (init_process == 0) run_init(arguments + 2);
  close(3);
  signal(SIGALRM, too_late);
  alarm((unsigned)atoi(arguments[1]));
  int status;
  while (waitpid(init_process, &status, 0) < 0) {
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
