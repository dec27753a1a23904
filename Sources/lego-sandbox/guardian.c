// The guardian is outside the program's namespaces and has one thread. It outlives a killed daemon just long enough to
// kill the program: until the last process is gone it keeps the userfault descriptors and the filter's listener open,
// so that no page reads as zero and no trapped call fails in a program whose monitor has died.
#define _GNU_SOURCE
#include "lego_pidfd.h"
#include "lego_process.h"
#include "lego_socket.h"
#include "sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { START_MESSAGE_MS = 10000 };

// Userfault descriptors of living and, until the next sweep, dead address spaces.
struct faults {
  int *descriptors;
  size_t count;
  size_t capacity;
  size_t sweep_at;
};

struct guardian {
  struct lego_sandbox_prepare preparation;
  struct faults faults;
  int inner;
  int init_pidfd;
  int mounts; // the namespace's; kept open to the end, -1 where it could not be
  pid_t init;
  pid_t program;
  int listener;       // -1 until it is FILTERED; kept to the end
  int64_t deadline_ms; // of READY; -1 before START, and when it has been reached, or FAILED was reported
  int has_start;
  int has_failed;
  int has_ended;
  int status;
};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void report(const struct lego_sandbox_report *message, const int *descriptors, size_t descriptor_count) {
  // A daemon that cannot be told is gone; the end of its socket tells so.
  (void)lego_send_descriptors(LEGO_SANDBOX_CONTROL, message, sizeof *message, descriptors, descriptor_count);
}

static void report_failure(enum lego_sandbox_stage stage, int error, const char *subject) {
  struct lego_sandbox_report message = {.kind = LEGO_SANDBOX_FAILED, .stage = stage, .error = error};
  strncpy(message.subject, subject, sizeof message.subject - 1);
  report(&message, NULL, 0);
}

static void kill_namespace(const struct guardian *guardian) { lego_pidfd_send_signal(guardian->init_pidfd, SIGKILL); }

static void fail(struct guardian *guardian, enum lego_sandbox_stage stage, int error, const char *subject) {
  if (!guardian->has_failed) report_failure(stage, error, subject);
  guardian->has_failed = 1;
  guardian->deadline_ms = -1;
  kill_namespace(guardian);
}

// Whether the address space behind a userfault descriptor has been torn down: the kernel looks at it (ESRCH) before it
// looks for memory at address 0 (ENOENT), and changes nothing in either case. A filter's listener hangs up when its
// last process has ended, which no userfault descriptor ever does.
static int is_dead(int descriptor) {
  struct pollfd listener = {.fd = descriptor};
  if (poll(&listener, 1, 0) == 1 && listener.revents & POLLHUP) return 1;
  struct uffdio_writeprotect nothing = {.range = {.start = 0, .len = 4096}, .mode = 0};
  return ioctl(descriptor, UFFDIO_WRITEPROTECT, &nothing) < 0 && errno == ESRCH;
}

static void sweep(struct faults *faults) {
  size_t kept = 0;
  for (size_t i = 0; i < faults->count; i++) {
    if (is_dead(faults->descriptors[i]))
      close(faults->descriptors[i]);
    else
      faults->descriptors[kept++] = faults->descriptors[i];
  }
  faults->count = kept;
  faults->sweep_at = kept * 2 < 64 ? 64 : kept * 2;
}

static int keep(struct faults *faults, int descriptor) {
  if (faults->count >= faults->sweep_at) sweep(faults);
  if (faults->count == faults->capacity) {
    size_t capacity = faults->capacity ? faults->capacity * 2 : 64;
    int *grown = reallocarray(faults->descriptors, capacity, sizeof *grown);
    if (!grown) return -ENOMEM;
    faults->descriptors = grown;
    faults->capacity = capacity;
  }
  faults->descriptors[faults->count++] = descriptor;
  return 0;
}

// Takes one message with userfault descriptors. 0 at the end of the stream.
static int take_faults(struct guardian *guardian) {
  char kind;
  int descriptors[LEGO_SOCKET_DESCRIPTORS_MAX];
  size_t count = 0;
  ssize_t received = lego_receive_descriptors(LEGO_SANDBOX_FAULTS, &kind, 1, descriptors,
                                              LEGO_SOCKET_DESCRIPTORS_MAX, &count, NULL, MSG_DONTWAIT);
  if (received == -EAGAIN || received == -EINTR) return 1;
  if (received == 0) return 0;
  int result = received < 0 ? (int)received : 0;
  for (size_t i = 0; i < count && result == 0; i++) result = keep(&guardian->faults, descriptors[i]);
  // A descriptor that cannot be kept would let pages read as zero if the daemon died: better no program than a wrong
  // one.
  if (result < 0) kill_namespace(guardian);
  return 1;
}

static void forward_ready(struct guardian *guardian, int program_pidfd, int terminal) {
  struct lego_sandbox_report message = {
      .kind = LEGO_SANDBOX_READY, .init_process = guardian->init, .program_process = guardian->program};
  int descriptors[] = {guardian->listener, program_pidfd, terminal};
  report(&message, descriptors, terminal >= 0 ? 3 : 2);
  guardian->deadline_ms = -1;
}

// Takes one message of init or program. Answers whether there may be more.
static int take_inner(struct guardian *guardian) {
  struct lego_sandbox_report message;
  struct lego_peer_credentials sender;
  int descriptors[2] = {-1, -1};
  size_t descriptor_count = 0;
  ssize_t received = lego_receive_descriptors(guardian->inner, &message, sizeof message, descriptors, 2,
                                              &descriptor_count, &sender, MSG_DONTWAIT);
  if (received == -EINTR) return 1;
  if (received != sizeof message) return 0;
  message.subject[sizeof message.subject - 1] = 0;
  switch ((enum lego_sandbox_inner)message.kind) {
  case LEGO_SANDBOX_INNER_FILTERED:
    guardian->listener = descriptors[0];
    guardian->program = sender.pid;
    descriptors[0] = -1;
    break;
  case LEGO_SANDBOX_INNER_HELD:
    if (!guardian->has_failed && guardian->listener >= 0 && descriptors[0] >= 0)
      forward_ready(guardian, descriptors[0], descriptors[1]);
    break;
  case LEGO_SANDBOX_INNER_FAILED:
    fail(guardian, (enum lego_sandbox_stage)message.stage, message.error, message.subject);
    break;
  case LEGO_SANDBOX_INNER_ENDED:
    guardian->has_ended = 1;
    guardian->status = message.status;
    report(&(struct lego_sandbox_report){.kind = LEGO_SANDBOX_ENDING}, NULL, 0);
    break;
  }
  for (size_t i = 0; i < 2; i++)
    if (descriptors[i] >= 0) close(descriptors[i]);
  return 1;
}

// There is a program: from now on the time that it may take to be loaded counts.
static void begin(struct guardian *guardian, const struct lego_sandbox_start *message, int error) {
  guardian->has_start = 1;
  prctl(PR_SET_NAME, "lego-guardian");
  if (guardian->has_failed) return;
  guardian->deadline_ms = now_ms() + message->setup_ms;
  if (!error) return;
  // Init is gone, and has mostly said why.
  while (take_inner(guardian)) continue;
  fail(guardian, LEGO_SANDBOX_STAGE_MESSAGE, error, "");
}

// Takes one command of the daemon. 0 when the daemon is gone; the program is then as good as dead.
static int take_command(struct guardian *guardian) {
  struct lego_sandbox_start message;
  char *command = (char *)&message;
  int descriptors[5];
  size_t count = 0;
  ssize_t received = lego_receive_descriptors(LEGO_SANDBOX_CONTROL, &message, sizeof message, descriptors, 5, &count,
                                              NULL, MSG_DONTWAIT);
  if (received == -EAGAIN || received == -EINTR) return 1;
  if (received == 1 && *command == LEGO_SANDBOX_GO) {
    (void)send(guardian->inner, command, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    return 1;
  }
  if (received == sizeof message) {
    // The program, or a process that joins: init's business. One of those that it cannot take is told by the end of its
    // socket.
    ssize_t sent = lego_send_descriptors(guardian->inner, &message, sizeof message, descriptors, count);
    if (!guardian->has_start) begin(guardian, &message, sent < 0 ? (int)-sent : 0);
    for (size_t i = 0; i < count; i++) close(descriptors[i]);
    return 1;
  }
  kill_namespace(guardian);
  return received > 0;
}

// The namespace's first process has ended, and with it every other. Never returns.
static _Noreturn void finish(struct guardian *guardian) {
  while (take_inner(guardian)) continue;
  int status = 0;
  (void)lego_pidfd_reap(guardian->init_pidfd, 1, &status);
  if (!guardian->has_failed) {
    struct lego_sandbox_report message = {
        .kind = LEGO_SANDBOX_ENDED, .status = guardian->has_ended ? guardian->status : SIGKILL};
    report(&message, NULL, 0);
  }
  _exit(0);
}

static _Noreturn void watch(struct guardian *guardian) {
  struct pollfd watched[] = {
      {.fd = LEGO_SANDBOX_FAULTS, .events = POLLIN},
      {.fd = LEGO_SANDBOX_CONTROL, .events = POLLIN},
      {.fd = guardian->inner, .events = POLLIN},
      {.fd = guardian->init_pidfd, .events = POLLIN},
  };
  for (;;) {
    int64_t left = guardian->deadline_ms < 0 ? -1 : guardian->deadline_ms - now_ms();
    if (guardian->deadline_ms >= 0 && left <= 0) fail(guardian, LEGO_SANDBOX_STAGE_DEADLINE, ETIMEDOUT, "");
    if (poll(watched, 4, left > 0 ? (int)left : guardian->deadline_ms < 0 ? -1 : 0) < 0) continue;
    if (watched[0].revents && !take_faults(guardian)) watched[0].fd = -1;
    if (watched[1].revents && !take_command(guardian)) watched[1].fd = -1;
    if (watched[2].revents && !take_inner(guardian)) watched[2].fd = -1;
    if (watched[3].revents) finish(guardian);
  }
}

static void prepare(void) {
  static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU};
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
  prctl(PR_SET_NAME, "lego-prepared");
  (void)lego_raise_descriptor_limit();
  if (chdir("/") < 0) _exit(1);
}

// Starts init in namespaces of its own. -errno on failure.
static int start_init(struct guardian *guardian) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return -errno;
  int result = lego_socket_pass_credentials(ends[0]);
  if (result < 0) return result;
  struct clone_args arguments = {
      .flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC,
      .pidfd = (uint64_t)(uintptr_t)&guardian->init_pidfd,
      .exit_signal = SIGCHLD,
  };
  long process = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (process < 0) return -errno;
  if (process == 0) {
    close(ends[0]);
    close(LEGO_SANDBOX_CONTROL);
    close(LEGO_SANDBOX_FAULTS);
    init_run(&guardian->preparation, ends[1]);
  }
  close(ends[1]);
  guardian->inner = ends[0];
  guardian->init = (pid_t)process;
  // Whoever lets go of the mounts last takes them down, and waits for all processors of the host while it does. That is
  // this process, when it has reported the end, and not the program's last process, for whose end the report waits.
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)process);
  guardian->mounts = open(path, O_RDONLY | O_CLOEXEC);
  return 0;
}

_Noreturn void guardian_run(void) {
  struct guardian guardian = {
      .inner = -1, .init_pidfd = -1, .mounts = -1, .listener = -1, .deadline_ms = -1, .faults = {.sweep_at = 64}};
  prepare();
  int result = start_receive_preparation(LEGO_SANDBOX_CONTROL, START_MESSAGE_MS, &guardian.preparation);
  if (result < 0) {
    report_failure(LEGO_SANDBOX_STAGE_MESSAGE, -result, "");
    _exit(1);
  }
  result = start_init(&guardian);
  if (result < 0) {
    report_failure(LEGO_SANDBOX_STAGE_NAMESPACES, -result, "");
    _exit(1);
  }
  watch(&guardian);
}
