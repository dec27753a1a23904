// Stacks and guards: handlers that run on a stack which is not resident, and return to a frame that has left meanwhile;
// stacks that grow and that overflow; pages that may not be touched; and restartable sequences.
#include "check.h"
#include <errno.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { COUNT = 64, STACK = 32 };
static char *alternative;
static volatile sig_atomic_t calls, outside;
static sigjmp_buf back;

static void use_alternative(void) {
  alternative = pages(STACK);
  stack_t stack = {.ss_sp = alternative, .ss_size = STACK * PAGE};
  CHECK(sigaltstack(&stack, NULL) == 0);
}
static void handle(int number, void (*handler)(int), int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK | flags};
  CHECK(sigaction(number, &action, NULL) == 0);
}
static int is_on_alternative(volatile char *local) { return local >= alternative && local < alternative + STACK * PAGE; }

// Its own frame, and that of the interrupted code, leave while it runs.
static void on_signal(int number) {
  volatile char frame[3 * PAGE];
  for (int i = 0; i < 3; i++) frame[i * PAGE] = (char)(number + i);
  if (!is_on_alternative(frame)) outside++;
  press(PRESSURE);
  for (int i = 0; i < 3; i++) if (frame[i * PAGE] != (char)(number + i)) outside++;
  calls++;
}
static void on_nested(int number) {
  if (number == SIGUSR1) raise(SIGUSR2);
  on_signal(number);
}

static void alternative_stack(void) {
  use_alternative();
  handle(SIGUSR1, on_nested, 0);
  handle(SIGUSR2, on_signal, 0);
  volatile double kept[4] = {1.5, 2.5, 3.5, 4.5};
  register double in_register = kept[2] * 3;
  for (int i = 1; i <= 3; i++) {
    press(PRESSURE);
    CHECK(syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGUSR1) == 0);
    CHECK(calls == 2 * i && outside == 0);
  }
  CHECK(in_register == 10.5);
}

// Signals that come while pages are brought: each handler faults as well.
static char *touched;
static void on_alarm(int number) {
  volatile char local = (char)number;
  if (!is_on_alternative(&local)) outside++;
  for (int i = 0; i < 8; i++) touched[(calls * 37 + i * 101) % 2000 * PAGE + 1]++;
  calls++;
}
static void signals_in_faults(void) {
  enum { MANY = 2000, ROUNDS = 8 };
  struct itimerval interval = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};
  use_alternative();
  touched = pages(MANY);
  handle(SIGALRM, on_alarm, SA_RESTART);
  CHECK(setitimer(ITIMER_REAL, &interval, NULL) == 0);
  for (int round = 0; round < ROUNDS || calls < 20; round++)
    for (int i = 0; i < MANY; i++) touched[(size_t)(i * 331 % MANY) * PAGE] = (char)round;
  CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
  unsigned char expected = 0, found = 0;
  int handled = calls;
  for (int call = 0; call < handled; call++) expected += 8;
  for (int i = 0; i < MANY; i++) found += (unsigned char)touched[i * PAGE + 1];
  CHECK(found == expected && outside == 0);
}

static int deep(int count) {
  volatile char frame[PAGE];
  frame[0] = (char)count;
  return count ? deep(count - 1) + (frame[0] == (char)count) : 0;
}
static void on_overflow(int number) {
  volatile char local = (char)number;
  siglongjmp(back, is_on_alternative(&local) ? 1 : 2);
}

// A thread's stack with a guard below it, whose overflow is handled on another one, both away.
static void *overflow(void *below) {
  use_alternative();
  handle(SIGSEGV, on_overflow, 0);
  CHECK(deep(COUNT / 2) == COUNT / 2);
  for (int i = 0; i < 2; i++) {
    press(PRESSURE);
    int how = sigsetjmp(back, 1);
    if (how == 0) deep(1 << 20);
    CHECK(how == 1);
  }
  // Nothing was written beyond the guard.
  CHECK(((char *)below)[0] == 11 && ((char *)below)[PAGE - 1] == 11);
  return NULL;
}
static void overflowing_stack(void) {
  pthread_attr_t attributes;
  pthread_t thread;
  char *memory = pages(COUNT + 2), *stack = memory + 2 * PAGE;
  memset(memory, 11, 2 * PAGE);
  press(PRESSURE);
  CHECK(mprotect(memory + PAGE, PAGE, PROT_NONE) == 0);
  pthread_attr_init(&attributes);
  CHECK(pthread_attr_setstack(&attributes, stack, COUNT * PAGE) == 0);
  CHECK(pthread_create(&thread, &attributes, overflow, memory) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(mprotect(memory + PAGE, PAGE, PROT_READ) == 0 && memory[PAGE] == 11);
}

static void on_fault(int number) {
  (void)number;
  siglongjmp(back, 1);
}
static int faults(volatile char *address) {
  if (sigsetjmp(back, 1)) return 1;
  *address = *address;
  return 0;
}

static void guard_advice(void) {
  char *memory = filled(COUNT, 1), *fresh = pages(COUNT);
  handle(SIGSEGV, on_fault, 0);
  press(PRESSURE);
  if (madvise(memory + 16 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) != 0) {
    CHECK(errno == EINVAL); // before Linux 6.13
    return;
  }
  CHECK(madvise(fresh + 16 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) == 0);
  // Streams in both directions that run into it bring nothing in its place.
  for (int i = 0; i < 16; i++) fresh[i * PAGE] = 1;
  for (int i = COUNT - 1; i >= 24; i--) fresh[i * PAGE] = 1;
  for (int i = 16; i < 24; i++) CHECK(faults(fresh + i * PAGE) && faults(memory + i * PAGE));
  CHECK(is_filled(memory, 16, 1) && is_filled(memory + 24 * PAGE, COUNT - 24, 25));
  press(PRESSURE);
  CHECK(is_filled(memory, 16, 1) && is_filled(memory + 24 * PAGE, COUNT - 24, 25));
  for (int i = 16; i < 24; i++) CHECK(faults(fresh + i * PAGE) && faults(memory + i * PAGE));
  // A child has it too, and what moves keeps it.
  pid_t child = fork();
  if (child == 0) {
    for (int i = 8; i < 16; i++) memory[i * PAGE] = 1;
    _exit(!(faults(memory + 16 * PAGE) && faults(memory + 23 * PAGE) && !faults(memory + 24 * PAGE)));
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  char *moved = mremap(memory, COUNT * PAGE, COUNT * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, pages(COUNT));
  CHECK(moved != MAP_FAILED && faults(moved + 16 * PAGE) && faults(moved + 23 * PAGE));
  CHECK(is_filled(moved, 16, 1) && is_filled(moved + 24 * PAGE, COUNT - 24, 25));
  CHECK(madvise(moved + 16 * PAGE, 4 * PAGE, MADV_GUARD_REMOVE) == 0);
  CHECK(!faults(moved + 16 * PAGE) && moved[19 * PAGE] == 0 && faults(moved + 20 * PAGE));
  memset(moved + 16 * PAGE, 5, PAGE);
  press(PRESSURE);
  CHECK(moved[16 * PAGE] == 5 && moved[17 * PAGE] == 0 && faults(moved + 20 * PAGE));
  CHECK(madvise(moved, COUNT * PAGE, MADV_GUARD_REMOVE) == 0);
  CHECK(!faults(moved + 23 * PAGE) && is_filled(moved, 16, 1) && is_filled(moved + 24 * PAGE, COUNT - 24, 25));
}

// It grows page by page into what is free below it.
static void growing_down(void) {
  enum { SPAN = 2048 };
  char *room = mmap(NULL, SPAN * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(room, SPAN * PAGE);
  char *top = room + SPAN * PAGE;
  char *first = mmap(top - PAGE, PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(first == top - PAGE);
  for (int i = 1; i <= COUNT; i++) memset(top - i * PAGE, i, PAGE);
  press(PRESSURE);
  for (int i = 1; i <= COUNT; i++) CHECK(top[-i * PAGE] == (char)i && top[-i * PAGE + PAGE - 1] == (char)i);
  handle(SIGSEGV, on_fault, 0);
  use_alternative();
  // Its guard gap: another mapping stops it.
  CHECK(mmap(top - 2 * COUNT * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED);
  CHECK(faults(top - (COUNT + 1) * PAGE));
}

static void limited_stack(void) {
  struct rlimit limit = {1 << 20, 1 << 20};
  CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
  use_alternative();
  handle(SIGSEGV, on_overflow, 0);
  CHECK(deep(150) == 150);
  press(PRESSURE);
  int how = sigsetjmp(back, 1);
  if (how == 0) deep(1000);
  CHECK(how == 1);
}

// Restartable sequences, with the thread's area and the section's description in pages that are away.
enum { SIGNATURE = 0x53053053 };
static volatile struct rseq *area;
static void on_tick(int number) { (void)number; }

static unsigned long until_aborted(volatile struct rseq_cs *section) {
  unsigned long count = 0;
  uintptr_t start, end, aborted;
  __asm__ volatile("lea 3f(%%rip), %0\n lea 4f(%%rip), %1\n lea 5f(%%rip), %2" : "=r"(start), "=r"(end), "=r"(aborted));
  *section = (struct rseq_cs){.start_ip = start, .post_commit_offset = end - start, .abort_ip = aborted};
  press(PRESSURE);
  __asm__ volatile("mov %2, %1\n"
                   "3: inc %0\n"
                   "jmp 3b\n"
                   "4: ud2\n"
                   ".byte 0x0f, 0xb9, 0x3d\n"
                   ".long 0x53053053\n"
                   "5:\n"
                   : "+r"(count), "=m"(area->rseq_cs)
                   : "r"((uint64_t)(uintptr_t)section)
                   : "memory", "cc");
  return count;
}

// The C library has its own area, without which the program was started.
static void restartable_sequences(void) {
  struct itimerval interval = {{0, 20000}, {0, 20000}}, none = {{0, 0}, {0, 0}};
  cpu_set_t all, one;
  area = (struct rseq *)pages(1);
  if (syscall(SYS_rseq, area, 32, 0, SIGNATURE) != 0) {
    CHECK(errno == ENOSYS);
    return;
  }
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    press(PRESSURE);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(area->cpu_id == (uint32_t)cpu && area->cpu_id_start == (uint32_t)cpu);
  }
  CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
  handle(SIGVTALRM, on_tick, SA_RESTART);
  volatile struct rseq_cs *section = (struct rseq_cs *)pages(1);
  CHECK(setitimer(ITIMER_VIRTUAL, &interval, NULL) == 0);
  for (int i = 0; i < 4; i++) CHECK(until_aborted(section) > 0);
  CHECK(setitimer(ITIMER_VIRTUAL, &none, NULL) == 0);
  CHECK(area->rseq_cs == 0);
  CHECK(syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, SIGNATURE) == 0);
}

int main(int count, char **arguments) {
  static void (*const parts[])(void) = {alternative_stack, signals_in_faults, overflowing_stack, guard_advice,
                                        growing_down,      limited_stack,     restartable_sequences};
  (void)count;
  if (!getenv("GLIBC_TUNABLES")) {
    setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
    execv("/proc/self/exe", arguments);
  }
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) apart(parts[i]);
  return check_result();
}
