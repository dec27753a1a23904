// Process 1 of the program's namespace: builds the root, starts the program and what joins it, and reaps whatever is
// orphaned. When it
// ends, the kernel kills every other process of the namespace before the guardian sees it end.
#define _GNU_SOURCE
#include "lego_pidfd.h"
#include "lego_socket.h"
#include "sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int inner_send(int inner, enum lego_sandbox_inner kind, int status, int descriptor, int terminal) {
  struct lego_sandbox_report message = {.kind = kind, .status = status};
  int descriptors[] = {descriptor, terminal};
  size_t count = descriptor < 0 ? 0 : terminal < 0 ? 1 : 2;
  ssize_t sent = lego_send_descriptors(inner, &message, sizeof message, descriptors, count);
  return sent < 0 ? (int)sent : 0;
}

_Noreturn void inner_fail(int inner, struct failure failure) {
  struct lego_sandbox_report message = {.kind = LEGO_SANDBOX_INNER_FAILED, .stage = failure.stage, .error = failure.error};
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
  // No events: there may be a message already.
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
static void hold(int inner, pid_t program, int pidfd, int terminal) {
  char command = 0;
  if (inner_send(inner, LEGO_SANDBOX_INNER_HELD, 0, pidfd, terminal) < 0) _exit(1);
  if (recv(inner, &command, 1, 0) != 1 || command != LEGO_SANDBOX_GO) _exit(1);
  ptrace(PTRACE_DETACH, program, NULL, NULL);
}

// A process that joined the program.
struct joined {
  struct joined *next;
  pid_t process;
  int socket;   // to the daemon
  int terminal; // the master, until the daemon has it; -1: none
  int is_loaded;
};

static void fail_joined(int socket, int error, const char *subject) {
  struct lego_sandbox_report message = {
      .kind = LEGO_SANDBOX_INNER_FAILED, .stage = LEGO_SANDBOX_STAGE_PROCESS, .error = error};
  strncpy(message.subject, subject, sizeof message.subject - 1);
  (void)lego_send_descriptors(socket, &message, sizeof message, NULL, 0);
}

// Starts a process that joins. Descriptors: streams, payload, socket.
static void join(struct joined **list, const struct lego_sandbox_start *header, const int *descriptors) {
  struct start start = {.header = *header, .memory = -1, .terminal = -1};
  int socket = descriptors[4];
  struct joined *joined = calloc(1, sizeof *joined);
  int terminal = joined && header->has_terminal ? terminal_open(&start) : -1;
  if (!joined || (header->has_terminal && terminal < 0)) {
    fail_joined(socket, joined ? -terminal : ENOMEM, "terminal");
    free(joined);
    return;
  }
  pid_t process = fork();
  if (process == 0) {
    memcpy(start.streams, descriptors, sizeof start.streams);
    int end = start.terminal, result = start_parse(descriptors[3], &start);
    start.terminal = end;
    if (result < 0) fail(socket, LEGO_SANDBOX_STAGE_MESSAGE, -result, "");
    program_run(&start, socket);
  }
  if (start.terminal >= 0) close(start.terminal);
  if (process < 0) {
    fail_joined(socket, errno, "fork");
    if (terminal >= 0) close(terminal);
    free(joined);
    return;
  }
  *joined = (struct joined){*list, process, fcntl(socket, F_DUPFD_CLOEXEC, 3), terminal, 0};
  *list = joined;
}

// Takes one message of the guardian.
static void take_message(int inner, struct joined **list) {
  struct lego_sandbox_start header;
  int descriptors[5];
  size_t count = 0;
  ssize_t received =
      lego_receive_descriptors(inner, &header, sizeof header, descriptors, 5, &count, NULL, MSG_DONTWAIT);
  if (received == 0) _exit(1);
  if (received == sizeof header && count == 5 && header.magic == LEGO_SANDBOX_MAGIC) join(list, &header, descriptors);
  for (size_t i = 0; i < count; i++) close(descriptors[i]);
}

// It has been loaded, and stands before its first instruction.
static void let_go(struct joined *joined) {
  int pidfd = lego_pidfd_open(joined->process);
  joined->is_loaded = 1;
  (void)inner_send(joined->socket, LEGO_SANDBOX_INNER_HELD, 0, pidfd, joined->terminal);
  if (pidfd >= 0) close(pidfd);
  if (joined->terminal >= 0) close(joined->terminal);
  joined->terminal = -1;
  ptrace(PTRACE_DETACH, joined->process, NULL, NULL);
}

static void tell_end(const struct joined *joined, int status) {
  if (joined->is_loaded) {
    (void)inner_send(joined->socket, LEGO_SANDBOX_INNER_ENDED, status, -1, -1);
  } else if (WIFSIGNALED(status)) {
    struct lego_sandbox_report message = {
        .kind = LEGO_SANDBOX_INNER_FAILED, .stage = LEGO_SANDBOX_STAGE_LOAD, .error = WTERMSIG(status)};
    (void)lego_send_descriptors(joined->socket, &message, sizeof message, NULL, 0);
  }
  // Else it has told why itself.
}

// A child has stopped or ended that is not the program.
static void child_changed(struct joined **list, pid_t process, int status) {
  for (struct joined **at = list; *at; at = &(*at)->next) {
    struct joined *joined = *at;
    if (joined->process != process) continue;
    if (WIFSTOPPED(status)) {
      if (joined->is_loaded) return;
      if (WSTOPSIG(status) == SIGTRAP)
        let_go(joined);
      else
        ptrace(PTRACE_CONT, process, NULL, (void *)(uintptr_t)WSTOPSIG(status));
      return;
    }
    tell_end(joined, status);
    *at = joined->next;
    close(joined->socket);
    if (joined->terminal >= 0) close(joined->terminal);
    free(joined);
    return;
  }
}

// Reaps, and starts what joins, until the program ends.
static _Noreturn void attend(int inner, pid_t program, int children) {
  struct joined *list = NULL;
  struct pollfd watched[] = {{.fd = inner, .events = POLLIN}, {.fd = children, .events = POLLIN}};
  for (;;) {
    int status = 0;
    pid_t changed;
    while ((changed = waitpid(-1, &status, __WALL | WNOHANG)) > 0) {
      if (changed != program) {
        child_changed(&list, changed, status);
      } else if (WIFEXITED(status) || WIFSIGNALED(status)) {
        (void)inner_send(inner, LEGO_SANDBOX_INNER_ENDED, status, -1, -1);
        _exit(0);
      }
    }
    if (changed < 0 && errno != EINTR) _exit(1);
    if (poll(watched, 2, -1) < 0) continue;
    struct signalfd_siginfo ignored;
    if (watched[1].revents && read(children, &ignored, sizeof ignored) < 0 && errno != EAGAIN && errno != EINTR)
      _exit(1);
    if (watched[0].revents) take_message(inner, &list);
  }
}

// SIGCHLD as a descriptor.
static int watch_children(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) return -1;
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// The program, when there is one for what has been built.
static void await_start(int inner, struct start *start) {
  int result = start_receive(inner, start);
  if (result == -ECONNRESET) _exit(1);
  if (result < 0) fail(inner, LEGO_SANDBOX_STAGE_MESSAGE, -result, "");
}

_Noreturn void init_run(const struct lego_sandbox_prepare *preparation, int inner) {
  follow_guardian(inner);
  prctl(PR_SET_NAME, "lego-init");
  prctl(PR_SET_DUMPABLE, 0);
  setsid();
  struct failure failure;
  if (root_build(preparation, &failure) < 0) inner_fail(inner, failure);
  struct start begun, *start = &begun;
  await_start(inner, start);
  if (root_finish(start, &failure) < 0) inner_fail(inner, failure);
  int terminal = start->header.has_terminal ? terminal_open(start) : -1;
  if (start->header.has_terminal && terminal < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, -terminal, "terminal");
  int children = watch_children();
  if (children < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, errno, "signalfd");
  pid_t program = fork();
  if (program < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, errno, "fork");
  if (program == 0) program_run(start, inner);
  start_close_streams(start);
  if (start->terminal >= 0) close(start->terminal);
  int pidfd = lego_pidfd_open(program);
  if (pidfd < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, -pidfd, "pidfd_open");
  await_exec(inner, program);
  hold(inner, program, pidfd, terminal);
  close(pidfd);
  if (terminal >= 0) close(terminal);
  attend(inner, program, children);
}
