// Process 1 of the program's namespace: builds the root, starts the program and reaps whatever is orphaned. When it
// ends, the kernel kills every other process of the namespace before the guardian sees it end.
#define _GNU_SOURCE
#include "lego_pidfd.h"
#include "lego_socket.h"
#include "sandbox.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int inner_send(int inner, enum inner_kind kind, int status, int descriptor) {
  struct lego_sandbox_report message = {.kind = kind, .status = status};
  ssize_t sent = lego_send_descriptors(inner, &message, sizeof message, &descriptor, descriptor >= 0 ? 1 : 0);
  return sent < 0 ? (int)sent : 0;
}

_Noreturn void inner_fail(int inner, struct failure failure) {
  struct lego_sandbox_report message = {.kind = INNER_FAILED, .stage = failure.stage, .error = failure.error};
  if (failure.subject) strncpy(message.subject, failure.subject, sizeof message.subject - 1);
  (void)lego_send_descriptors(inner, &message, sizeof message, NULL, 0);
  _exit(127);
}

static _Noreturn void fail(int inner, enum lego_sandbox_stage stage, int error, const char *subject) {
  inner_fail(inner, (struct failure){stage, error, subject});
}

// Ties this process to the guardian's life, and ends when that is over already.
static void follow_guardian(int inner) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct pollfd guardian = {.fd = inner};
  if (poll(&guardian, 1, 0) != 0) _exit(1);
}

static pid_t wait_for(pid_t process, int *status) {
  pid_t found;
  do
    found = waitpid(process, status, __WALL);
  while (found < 0 && errno == EINTR);
  return found;
}

// Waits until the program has been loaded: it asked to be traced, so exec stops it with SIGTRAP before its first
// instruction.
static void await_exec(int inner, pid_t program) {
  for (;;) {
    int status = 0;
    if (wait_for(program, &status) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, errno, "waitpid");
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return;
    if (WIFSTOPPED(status))
      ptrace(PTRACE_CONT, program, NULL, (void *)(uintptr_t)WSTOPSIG(status));
    else if (WIFSIGNALED(status))
      fail(inner, LEGO_SANDBOX_STAGE_LOAD, WTERMSIG(status), "");
    else
      _exit(127); // It has told the guardian why.
  }
}

// Holds the program until the daemon lets it go.
static void hold(int inner, pid_t program, int pidfd) {
  char command = 0;
  if (inner_send(inner, INNER_HELD, 0, pidfd) < 0) _exit(1);
  if (recv(inner, &command, 1, 0) != 1 || command != LEGO_SANDBOX_GO) _exit(1);
  ptrace(PTRACE_DETACH, program, NULL, NULL);
}

_Noreturn void init_run(const struct start *start, int inner) {
  follow_guardian(inner);
  prctl(PR_SET_NAME, "lego-init");
  prctl(PR_SET_DUMPABLE, 0);
  setsid();
  struct failure failure;
  if (root_build(start, &failure) < 0) inner_fail(inner, failure);
  pid_t program = fork();
  if (program < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, errno, "fork");
  if (program == 0) program_run(start, inner);
  start_close_streams(start);
  int pidfd = lego_pidfd_open(program);
  if (pidfd < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, -pidfd, "pidfd_open");
  await_exec(inner, program);
  hold(inner, program, pidfd);
  close(pidfd);
  for (;;) {
    int status = 0;
    pid_t ended = wait_for(-1, &status);
    if (ended == program && (WIFEXITED(status) || WIFSIGNALED(status))) {
      (void)inner_send(inner, INNER_ENDED, status, -1);
      _exit(0);
    }
    if (ended < 0) _exit(1);
  }
}
