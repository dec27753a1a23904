// Kinds of memory and of processes that need more than a served fault, each under pressure that evicts what it can. The
// first argument is a file as for memory_calls.c.
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

enum { COUNT = 64 };

static char file_byte(size_t i) { return (char)(i * 7 + i / 4096); }
static const char *file_name;
static char *map_file(int flags) {
  int file = open(file_name, O_RDONLY);
  char *memory = mmap(NULL, 8 * PAGE, PROT_READ, MAP_PRIVATE | flags, file, 0);
  close(file);
  return memory;
}
static int is_file(const char *memory) {
  for (size_t i = 0; i < 8 * PAGE; i += 100)
    if (memory[i] != file_byte(i)) return 0;
  return 1;
}

static void limits(void) {
  struct rlimit limit = {64 << 20, 64 << 20};
  free(malloc(1 << 20)); // the agent is there
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  CHECK(mmap(NULL, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
  CHECK(sbrk(128 << 20) == (void *)-1);
  char *memory = pages(COUNT);
  CHECK(mremap(memory, COUNT * PAGE, 128 << 20, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
}

static void few_descriptors(void) {
  struct rlimit limit = {3, 3};
  char *memory = filled(COUNT, 1);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  pid_t child = fork();
  if (child == 0) {
    press(COUNT);
    _exit(!is_filled(memory, COUNT, 1));
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static size_t locked_kilobytes(void) {
  char line[256];
  size_t found = 0;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) sscanf(line, "VmLck: %zu kB", &found);
  if (file) fclose(file);
  return found;
}

static void locked_future(void) {
  CHECK(mlockall(MCL_FUTURE) == 0);
  char *file = map_file(0), *memory = pages(COUNT);
  CHECK(is_file(file));
  memset(memory, 3, COUNT * PAGE);
  CHECK(locked_kilobytes() >= (8 + COUNT) * 4);
  press(PRESSURE / 10);
  CHECK(memory[0] == 3 && memory[COUNT * PAGE - 1] == 3 && is_file(file));
  CHECK(munlockall() == 0);
}

static void locked_now(void) {
  char *memory = filled(COUNT, 2);
  CHECK(mlockall(MCL_CURRENT) == 0);
  CHECK(is_filled(memory, COUNT, 2));
  CHECK(munlockall() == 0);
  char *locked = map_file(MAP_LOCKED), *populated = map_file(MAP_POPULATE);
  CHECK(is_file(locked) && is_file(populated));
  CHECK(locked_kilobytes() == 8 * 4);
}

static void refused_replacement(void) {
  char *memory = filled(COUNT, 4);
  press(PRESSURE);
  CHECK(mmap(memory, COUNT * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EBADF);
  char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(shared, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + 1) == MAP_FAILED && errno == EINVAL);
  CHECK(is_filled(memory, COUNT, 4));
  press(PRESSURE);
  shared[0] = 9;
  CHECK(mremap(shared, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory) == memory && memory[0] == 9);
  int file = memfd_create("shared", 0);
  CHECK(ftruncate(file, COUNT * PAGE) == 0 && pwrite(file, "x", 1, PAGE) == 1);
  CHECK(mmap(memory, COUNT * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == memory);
  CHECK(memory[PAGE] == 'x' && memory[2 * PAGE] == 0);
}

static void private_of_own_file(void) {
  int file = memfd_create("private", 0);
  CHECK(ftruncate(file, 4 * PAGE) == 0 && pwrite(file, "abcd", 4, PAGE) == 4);
  char *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  CHECK(memory[PAGE] == 'a');
  memory[0] = 'm';
  CHECK(pwrite(file, "x", 1, PAGE) == 1 && pwrite(file, "x", 1, 0) == 1);
  CHECK(memory[PAGE] == 'x' && memory[0] == 'm');
}

static void joined_time_namespace(void) {
  char *memory = filled(COUNT, 3);
  press(PRESSURE);
  int file = open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC);
  CHECK(file >= 0 && setns(file, 0x80 /* CLONE_NEWTIME */) == 0);
  press(PRESSURE);
  CHECK(is_filled(memory, COUNT, 3));
}

static void advices(void) {
  char *memory = filled(COUNT, 5), *file = map_file(0);
  CHECK(madvise(file, PAGE, MADV_FREE) == -1 && errno == EINVAL);
  CHECK(madvise(file, PAGE, MADV_REMOVE) == -1 && errno == EACCES);
  CHECK(madvise(memory, PAGE, MADV_REMOVE) == -1 && errno == EINVAL);
  CHECK(madvise(memory, COUNT * PAGE, MADV_DONTFORK) == 0);
  pid_t child = fork();
  if (child == 0) {
    unsigned char there;
    _exit(mincore(memory, PAGE, &there) == 0 || errno != ENOMEM);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  press(PRESSURE);
  CHECK(is_filled(memory, COUNT, 5));
  struct iovec ranges[2] = {{memory, PAGE}, {memory + 3 * PAGE, PAGE}};
  int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(syscall(SYS_process_madvise, self, ranges, 2, MADV_COLD, 0) == 2 * PAGE);
  CHECK(is_filled(memory, COUNT, 5));
  char *moved = mremap(file, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
  CHECK(moved != MAP_FAILED && is_file(moved) && is_file(file));
}

static pthread_mutex_t *robust;
static sem_t taken, leave;
static void *owner(void *unused) {
  pthread_mutex_lock(robust);
  sem_post(&taken);
  sem_wait(&leave);
  return unused;
}
static void robust_mutex(void) {
  pthread_mutexattr_t attributes;
  pthread_t thread;
  struct timespec until;
  robust = (pthread_mutex_t *)(pages(3) + PAGE);
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(robust, &attributes);
  sem_init(&taken, 0, 0);
  sem_init(&leave, 0, 0);
  CHECK(pthread_create(&thread, NULL, owner, NULL) == 0);
  sem_wait(&taken);
  press(PRESSURE);
  sem_post(&leave);
  pthread_join(thread, NULL);
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 20;
  CHECK(pthread_mutex_timedlock(robust, &until) == EOWNERDEAD);
}

static int watch;
static char *watched;
static void *serve(void *unused) {
  struct pollfd wait = {watch, POLLIN, 0};
  struct uffd_msg message;
  static char source[PAGE] __attribute__((aligned(PAGE)));
  memset(source, 8, PAGE);
  CHECK(poll(&wait, 1, 20000) == 1 && read(watch, &message, sizeof message) == sizeof message);
  struct uffdio_copy copy = {.dst = (uintptr_t)watched, .src = (uintptr_t)source, .len = PAGE};
  CHECK(message.arg.pagefault.address == (uintptr_t)watched && ioctl(watch, UFFDIO_COPY, &copy) == 0);
  return unused;
}
static void own_faults(void) {
  struct uffdio_api api = {.api = UFFD_API};
  pthread_t thread;
  watched = filled(COUNT, 6);
  press(PRESSURE);
  watch = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  CHECK(watch >= 0 && ioctl(watch, UFFDIO_API, &api) == 0);
  struct uffdio_register range = {{(uintptr_t)watched, COUNT * PAGE}, UFFDIO_REGISTER_MODE_MISSING, 0};
  CHECK(ioctl(watch, UFFDIO_REGISTER, &range) == 0);
  CHECK(is_filled(watched, COUNT, 6));
  CHECK(madvise(watched, PAGE, MADV_DONTNEED) == 0);
  CHECK(pthread_create(&thread, NULL, serve, NULL) == 0);
  CHECK(watched[0] == 8);
  pthread_join(thread, NULL);
  press(PRESSURE);
  CHECK(watched[PAGE] == 7);
}

static void peek_all(pid_t child, const char *memory, char seed) {
  int wrong = 0;
  for (int i = 0; i < COUNT; i++) {
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, child, memory + i * PAGE, NULL);
    wrong += errno != 0 || (char)word != (char)(seed + i);
  }
  CHECK(wrong == 0);
}
static void traced(void) {
  char *memory = filled(COUNT, 7);
  int ready[2], status;
  char byte;
  CHECK(pipe(ready) == 0);
  press(PRESSURE);
  // It asks to be traced, starts a program under the tracer's eyes, and maps memory all the while.
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    press(COUNT);
    execl("/bin/true", "true", NULL);
    _exit(1);
  }
  CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
  peek_all(child, memory, 7);
  CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
  CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
  CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  // It is attached to while its memory is elsewhere.
  child = fork();
  if (child == 0) {
    press(PRESSURE);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    pause();
    _exit(1);
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  CHECK(ptrace(PTRACE_ATTACH, child, NULL, NULL) == 0);
  CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
  peek_all(child, memory, 7);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
}

// What a program has reserved and hardly used, as programs with a shadow of their memory do, is no work for a tracer.
static void reserved(void) {
  enum { PLACES = 3 };
  const size_t bytes = 1ull << 44;
  char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  for (size_t i = 0; i < PLACES; i++) memory[i * (bytes / PLACES)] = (char)(i + 1);
  press(PRESSURE);
  CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
  for (size_t i = 0; i < PLACES; i++) CHECK(memory[i * (bytes / PLACES)] == (char)(i + 1));
  CHECK(memory[bytes / 2] == 0);
}

// A filter that no agent would survive.
static void filtered(void) {
  struct sock_filter code[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},
      {BPF_JMP | BPF_JEQ | BPF_K, 2, 0, SYS_prctl},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_setsid},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  pthread_t thread;
  char *memory = filled(COUNT, 9);
  press(PRESSURE);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
  pid_t child = fork();
  if (child == 0) {
    press(COUNT);
    sem_init(&leave, 0, 1);
    robust = (pthread_mutex_t *)pages(1);
    sem_init(&taken, 0, 0);
    if (pthread_create(&thread, NULL, owner, NULL) != 0 || pthread_join(thread, NULL) != 0) _exit(2);
    _exit(!is_filled(memory, COUNT, 9));
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(int count, char **arguments) {
  static void (*const parts[])(void) = {limits,  few_descriptors, locked_future, locked_now, refused_replacement,
                                        advices, robust_mutex,    own_faults,    traced,     reserved,
                                        filtered, private_of_own_file, joined_time_namespace};
  if (count < 2) return 2;
  file_name = arguments[1];
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) apart(parts[i]);
  return check_result();
}
