// Handlers of signals with and without SA_RESTART: which calls they interrupt, and what they leave as it was.
#include "check.h"
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

static volatile sig_atomic_t ticks;
static void tick(int number) {
  (void)number;
  ticks++;
}
static void install(int number, void (*handler)(int), int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  CHECK(sigaction(number, &action, NULL) == 0);
}
static void set_timer(int microseconds) {
  struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

// What never answers EINTR natively does not here, however often its wait for the monitor is interrupted.
static void memory_calls(void) {
  install(SIGALRM, tick, 0);
  ticks = 0;
  set_timer(150);
  for (int i = 0; (i < 300 || ticks < 200) && !check_failures; i++) {
    char *memory = pages(2);
    memory[0] = memory[PAGE] = 1;
    memory = mremap(memory, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
    CHECK(memory != MAP_FAILED);
    CHECK(madvise(memory, PAGE, MADV_DONTNEED) == 0);
    CHECK(munmap(memory, 4 * PAGE) == 0);
    void *end = sbrk(PAGE);
    CHECK(end != (void *)-1 && sbrk(-PAGE) != (void *)-1);
  }
  set_timer(0);
}

// The children's ends interrupt the next forks.
static void forks(void) {
  enum { CHILDREN = 40 };
  int reaped = 0;
  install(SIGCHLD, tick, 0);
  for (int i = 0; i < CHILDREN; i++) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    CHECK(child > 0);
  }
  while (reaped < CHILDREN && !check_failures) {
    pid_t child = waitpid(-1, NULL, 0);
    if (child > 0) reaped++;
    CHECK(child > 0 || errno == EINTR);
  }
  signal(SIGCHLD, SIG_DFL);
}

// A child that sends its parent a signal once that waits in the kernel, and ends what it waits for when the signal has been
// handled.
static int handled[2];
static void handled_one(int number) {
  (void)number;
  char byte = 1;
  ticks++;
  CHECK(write(handled[1], &byte, 1) == 1);
}
// Whether the process whose /proc/PID/syscall that is waits in read(2).
static int is_waiting(int calls) {
  char text[64] = "";
  CHECK(pread(calls, text, sizeof text - 1, 0) > 0);
  return strncmp(text, "0 ", 2) == 0;
}
// The error of a read(2) that a handler interrupts, or 0 when it goes on.
static int handled_read(void) {
  int source[2];
  char byte;
  CHECK(pipe(source) == 0 && pipe(handled) == 0);
  int calls = open("/proc/self/syscall", O_RDONLY); // which may number processes as another namespace does
  pid_t parent = getpid(), child = fork();
  if (child == 0) {
    while (!is_waiting(calls)) sched_yield();
    kill(parent, SIGUSR1);
    if (read(handled[0], &byte, 1) != 1 || write(source[1], &byte, 1) != 1) _exit(1);
    _exit(0);
  }
  int result = read(source[0], &byte, 1), error = errno;
  CHECK(waitpid(child, NULL, 0) == child);
  close(calls);
  for (int i = 0; i < 2; i++) close(source[i]), close(handled[i]);
  if (result == 1) return 0;
  CHECK(result == -1);
  return error;
}

// siginterrupt(3), which is deprecated in its favour.
static void set_restart(int number, int on) {
  struct sigaction action;
  CHECK(sigaction(number, NULL, &action) == 0);
  action.sa_flags = on ? action.sa_flags | SA_RESTART : action.sa_flags & ~SA_RESTART;
  CHECK(sigaction(number, &action, NULL) == 0);
}

static int interrupted_read(int flags) {
  install(SIGUSR1, handled_one, flags);
  return handled_read();
}

// What waits for something else than the monitor is interrupted as the program asked.
static void waits(void) {
  CHECK(interrupted_read(0) == EINTR);
  CHECK(interrupted_read(SA_RESTART) == 0);
  CHECK(interrupted_read(SA_SIGINFO) == EINTR);
  // Reading an action and installing it again changes nothing.
  struct sigaction action;
  install(SIGUSR1, handled_one, 0);
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == handled_one);
  CHECK((action.sa_flags & SA_RESTART) == 0);
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK(handled_read() == EINTR);
  set_restart(SIGUSR1, 1);
  CHECK(handled_read() == 0);
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && (action.sa_flags & SA_RESTART) != 0);
  set_restart(SIGUSR1, 0);
  CHECK(handled_read() == EINTR);
  // The old action, with the new one's installation, and back.
  struct sigaction other = {.sa_handler = handled_one};
  CHECK(sigaction(SIGUSR1, &other, &action) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
  CHECK(handled_read() == EINTR);
  // The kernel takes it back when it comes.
  install(SIGUSR1, handled_one, SA_RESETHAND);
  CHECK(handled_read() == EINTR);
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
  install(SIGUSR1, handled_one, 0);
  signal(SIGUSR1, SIG_IGN);
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
  // A forked child, which has no agent.
  pid_t child = fork();
  int status = -1;
  if (child == 0) _exit(interrupted_read(0) != EINTR);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  install(SIGALRM, tick, 0);
  set_timer(1000);
  struct timespec second = {1, 0};
  CHECK(nanosleep(&second, NULL) == -1 && errno == EINTR);
  set_timer(0);
}

// Debuggers and libraries find their way through a handler's frame.
static volatile int frames;
static void trace(int number) {
  void *addresses[64];
  (void)number;
  frames = backtrace(addresses, 64);
}
static sigjmp_buf back;
static void leave(int number) {
  (void)number;
  siglongjmp(back, 1);
}
__attribute__((noinline)) static int deep(int depth) {
  if (depth == 0) return raise(SIGUSR1);
  return deep(depth - 1) + (depth & 0);
}
static void stack_frames(void) {
  void *address;
  (void)backtrace(&address, 1); // loads what it needs
  install(SIGUSR1, trace, 0);
  deep(20);
  CHECK(frames > 20);
  install(SIGUSR1, leave, 0);
  if (sigsetjmp(back, 1) == 0) {
    raise(SIGUSR1);
    CHECK(!"comes back");
  }
}

int main(void) {
  memory_calls();
  forks();
  waits();
  stack_frames();
  press(3000);
  waits();
  return check_result();
}
