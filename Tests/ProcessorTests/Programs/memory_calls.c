// The calls that change private memory, each followed by pressure that evicts what they left: what is read must be what
// the kernel alone would show. The first argument is a file of at least 9 pages plus 100 bytes, byte i being i * 7 + i
// / 4096.
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/uio.h>

static sigjmp_buf fault;
static volatile sig_atomic_t fault_signal;
static void on_fault(int number) {
  fault_signal = number;
  siglongjmp(fault, 1);
}
static int faults(volatile char *address, int write) {
  fault_signal = 0;
  if (!sigsetjmp(fault, 1)) {
    if (write)
      *address = 1;
    else
      (void)*address;
  }
  return fault_signal;
}
static int all(const char *memory, size_t count, char value) {
  for (size_t i = 0; i < count; i += 512)
    if (memory[i] != value) return 0;
  return 1;
}
static char file_byte(size_t i) { return (char)(i * 7 + i / 4096); }

static int deep(int count) {
  volatile char frame[PAGE];
  frame[0] = (char)count;
  frame[PAGE - 1] = (char)count;
  return count ? deep(count - 1) + (frame[0] == (char)count && frame[PAGE - 1] == (char)count) : 0;
}

static void protection(void) {
  char *memory = pages(16);
  memset(memory, 5, 16 * PAGE);
  CHECK(mprotect(memory, 8 * PAGE, PROT_READ) == 0);
  press(PRESSURE);
  CHECK(all(memory, 16 * PAGE, 5));
  CHECK(faults(memory, 1) == SIGSEGV);
  CHECK(mprotect(memory, 8 * PAGE, PROT_NONE) == 0);
  press(PRESSURE);
  CHECK(faults(memory, 0) == SIGSEGV);
  CHECK(mprotect(memory, 8 * PAGE, PROT_READ | PROT_WRITE) == 0);
  CHECK(all(memory, 16 * PAGE, 5));
}

static void locking(void) {
  char *memory = pages(64);
  memset(memory, 6, 64 * PAGE);
  CHECK(mlock(memory, 8 * PAGE) == 0);
  press(PRESSURE);
  CHECK(all(memory, 64 * PAGE, 6));
  CHECK(munlock(memory, 8 * PAGE) == 0);
  press(PRESSURE);
  CHECK(all(memory, 64 * PAGE, 6));
}

static void moving(void) {
  char *memory = pages(100);
  memset(memory, 7, 100 * PAGE);
  press(PRESSURE);
  char *blocker = mmap(memory + 100 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  char *moved = mremap(memory, 100 * PAGE, 200 * PAGE, MREMAP_MAYMOVE);
  CHECK(moved != MAP_FAILED);
  CHECK(all(moved, 100 * PAGE, 7));
  CHECK(all(moved + 100 * PAGE, 100 * PAGE, 0));
  memset(moved + 150 * PAGE, 8, 50 * PAGE);
  press(PRESSURE);
  CHECK(mremap(moved, 200 * PAGE, 160 * PAGE, 0) == moved);
  CHECK(all(moved, 100 * PAGE, 7) && all(moved + 150 * PAGE, 10 * PAGE, 8));
  CHECK(faults(moved + 160 * PAGE, 0) == SIGSEGV);
  char *target = pages(160);
  memset(target, 9, 160 * PAGE);
  CHECK(mremap(moved, 160 * PAGE, 160 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
  CHECK(all(target, 100 * PAGE, 7) && all(target + 150 * PAGE, 10 * PAGE, 8) && all(target + 100 * PAGE, 50 * PAGE, 0));
  munmap(target, 160 * PAGE);
  if (blocker != MAP_FAILED) munmap(blocker, PAGE);
}

// Maps ten pages over others.
static int replaced(char *memory, int kind) {
  return mmap(memory, 10 * PAGE, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory;
}

static void dropping(void) {
  char *memory = pages(100);
  memset(memory, 3, 100 * PAGE);
  press(PRESSURE);
  CHECK(madvise(memory + 10 * PAGE, 20 * PAGE, MADV_DONTNEED) == 0);
  CHECK(all(memory, 10 * PAGE, 3) && all(memory + 10 * PAGE, 20 * PAGE, 0) && all(memory + 30 * PAGE, 70 * PAGE, 3));
  CHECK(replaced(memory + 50 * PAGE, MAP_PRIVATE));
  CHECK(all(memory + 50 * PAGE, 10 * PAGE, 0) && all(memory + 60 * PAGE, 40 * PAGE, 3));
  CHECK(replaced(memory + 60 * PAGE, MAP_SHARED));
  memset(memory + 60 * PAGE, 4, 10 * PAGE);
  press(PRESSURE);
  CHECK(all(memory + 60 * PAGE, 10 * PAGE, 4) && all(memory + 70 * PAGE, 30 * PAGE, 3));
  CHECK(munmap(memory + 20 * PAGE, 20 * PAGE) == 0);
  CHECK(faults(memory + 25 * PAGE, 0) == SIGSEGV);
}

static void breaking(void) {
  char *old = sbrk(0), *memory = sbrk(64 * PAGE);
  CHECK(memory == old);
  memset(memory, 2, 64 * PAGE);
  press(PRESSURE);
  CHECK(all(memory, 64 * PAGE, 2));
  CHECK(brk(old + 16 * PAGE) == 0);
  CHECK(sbrk(48 * PAGE) == old + 16 * PAGE);
  CHECK(all(memory, 16 * PAGE, 2) && all(memory + 17 * PAGE, 47 * PAGE, 0));
  CHECK(brk(old) == 0);
}

static void wiping(void) {
  char *memory = pages(8);
  memset(memory, 1, 8 * PAGE);
  CHECK(madvise(memory, 4 * PAGE, MADV_WIPEONFORK) == 0);
  for (int pressed = 0; pressed < 2; pressed++) {
    pid_t child = fork();
    if (child == 0) _exit(!(all(memory, 4 * PAGE, 0) && all(memory + 4 * PAGE, 4 * PAGE, 1)));
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(all(memory, 8 * PAGE, 1));
    press(PRESSURE);
  }
}

static void mapping(const char *path) {
  int file = open(path, O_RDONLY), pipe_ends[2];
  CHECK(file >= 0);
  char *memory = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  CHECK(memory != MAP_FAILED);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 999, 0) == MAP_FAILED && errno == EBADF);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 100) == MAP_FAILED && errno == EINVAL);
  for (int pressed = 0; pressed < 2; pressed++) {
    for (size_t i = PAGE; i < 9 * PAGE + 100; i += 97) CHECK(memory[i] == file_byte(i));
    CHECK(memory[9 * PAGE + 200] == 0);
    if (!pressed) memset(memory, 'Z', PAGE);
    CHECK(memory[1] == 'Z');
    press(PRESSURE);
  }
  CHECK(faults(memory + 12 * PAGE, 0) == SIGBUS);
  char *zero = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/dev/zero", O_RDWR), 0);
  CHECK(zero != MAP_FAILED && zero[100] == 0);
  // Memory that is away, as the kernel reads and writes it.
  char *away = pages(1000), got[200];
  memset(away, 5, 1000 * PAGE);
  press(PRESSURE);
  CHECK(pipe(pipe_ends) == 0);
  struct iovec parts[2] = {{away + 500 * PAGE, 100}, {away + 700 * PAGE, 100}};
  CHECK(writev(pipe_ends[1], parts, 2) == 200);
  CHECK(read(pipe_ends[0], away + 800 * PAGE + 5, 200) == 200);
  CHECK(all(away + 800 * PAGE, 400, 5));
  memcpy(got, away + 800 * PAGE, sizeof got);
  CHECK(all(got, sizeof got, 5));
}

int main(int count, char **arguments) {
  if (count < 2) return 2;
  signal(SIGSEGV, on_fault);
  signal(SIGBUS, on_fault);
  CHECK(deep(1500) == 1500);
  protection();
  locking();
  moving();
  dropping();
  breaking();
  wiping();
  mapping(arguments[1]);
  return check_result();
}
