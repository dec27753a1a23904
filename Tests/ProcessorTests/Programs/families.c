// Processes and threads in numbers, with less local memory than they share: chains of clones, storms of vfork and exec,
// memory that relatives share beside memory that is each one's own, many threads that fault at once, and limits.
#include "check.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>

extern char **environ;
enum { COUNT = 64 };

static int ended_well(pid_t child) {
  int status = -1;
  return waitpid(child, &status, __WALL) == child && status == 0;
}

// Each generation has its own copy, and changes it before the next is born.
enum { GENERATIONS = 8 };
static char *inherited;
static int generation(int number, unsigned long flags) {
  if (!is_filled(inherited, COUNT, (char)number)) return 1;
  if (number == GENERATIONS) return 0;
  for (int i = 0; i < COUNT; i++) memset(inherited + i * PAGE, number + 1 + i, PAGE);
  if (number % 4 == 0) press(PRESSURE);
  pid_t child = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) _exit(generation(number + 1, flags));
  int wrong = child < 0 || !ended_well(child);
  press(COUNT);
  return wrong || !is_filled(inherited, COUNT, (char)(number + 1));
}
static void chains(void) {
  static const unsigned long kinds[] = {0, CLONE_FILES, CLONE_FILES | CLONE_FS, CLONE_IO};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    inherited = filled(COUNT, 0);
    press(PRESSURE);
    CHECK(generation(0, kinds[i]) == 0);
    munmap(inherited, COUNT * PAGE);
  }
}

// A process that shares the address space without being a thread of it.
static char *common;
static int in_same_memory(void *unused) {
  (void)unused;
  press(PRESSURE);
  for (int i = 0; i < COUNT; i++) common[i * PAGE]++;
  return 0;
}
static void same_memory(void) {
  char *stack = pages(COUNT);
  common = filled(COUNT, 5);
  press(PRESSURE);
  for (int i = 0; i < 3; i++) {
    pid_t child = clone(in_same_memory, stack + COUNT * PAGE, CLONE_VM | (i == 2 ? CLONE_VFORK : 0) | SIGCHLD, NULL);
    CHECK(child > 0 && ended_well(child));
  }
  for (int i = 0; i < COUNT; i++) CHECK(common[i * PAGE] == (char)(5 + i + 3) && common[i * PAGE + 1] == (char)(5 + i));
}

// Threads start programs by vfork while another one has everything evicted.
static volatile int done;
static void *thrash(void *unused) {
  while (!done) press(PRESSURE / 2);
  return unused;
}
static void *storm(void *argument) {
  enum { STARTS = 8 };
  char *mine = filled(COUNT, (char)(uintptr_t)argument), number[16];
  long wrong = 0;
  for (int i = 0; i < STARTS; i++) {
    char *words[] = {"sh", "-c", "exit $0", number, NULL};
    snprintf(number, sizeof number, "%d", i);
    pid_t child = -1;
    int status = -1;
    if (i % 2 == 0) {
      child = vfork();
      if (child == 0) {
        execv("/bin/sh", words);
        _exit(127);
      }
    } else if (posix_spawn(&child, "/bin/sh", NULL, NULL, words, environ) != 0) {
      child = -1;
    }
    wrong += child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != i || WIFSIGNALED(status);
    // One that fails has changed nothing.
    child = vfork();
    if (child == 0) {
      execv("/no/such/program", words);
      _exit(errno == ENOENT);
    }
    wrong += waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 1;
    wrong += !is_filled(mine, COUNT, (char)(uintptr_t)argument);
  }
  return (void *)wrong;
}
static void storms(void) {
  enum { THREADS = 4 };
  pthread_t threads[THREADS], thrasher;
  CHECK(pthread_create(&thrasher, NULL, thrash, NULL) == 0);
  for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, storm, (void *)(i * 50)) == 0);
  for (int i = 0; i < THREADS; i++) {
    void *wrong = NULL;
    CHECK(pthread_join(threads[i], &wrong) == 0 && wrong == NULL);
  }
  done = 1;
  pthread_join(thrasher, NULL);
}

// Shared anonymous memory, a memory file mapped twice and a System V segment, beside private memory, over a fork.
static void shared_by_relatives(void) {
  int file = memfd_create("shared", 0), segment = shmget(IPC_PRIVATE, COUNT * PAGE, 0600), ends[2];
  char byte;
  CHECK(ftruncate(file, COUNT * PAGE) == 0 && pipe(ends) == 0);
  char *shared[] = {
      mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
      mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0),
      shmat(segment, NULL, 0),
  };
  enum { KINDS = sizeof shared / sizeof *shared };
  CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
  char *view = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  char *private = filled(COUNT, 1);
  for (int i = 0; i < KINDS; i++) memset(shared[i], 10 + i, COUNT * PAGE);
  view[0] = 99;
  press(PRESSURE);
  pid_t child = fork();
  if (child == 0) {
    int wrong = !is_filled(private, COUNT, 1) || view[0] != 99 || view[PAGE] != 11;
    for (int i = 0; i < KINDS; i++) wrong |= shared[i][5 * PAGE] != 10 + i;
    for (int i = 0; i < COUNT; i++) memset(private + i * PAGE, 200, PAGE);
    view[2 * PAGE] = 98;
    press(PRESSURE);
    for (int i = 0; i < KINDS; i++) memset(shared[i], 20 + i, COUNT / 2 * PAGE);
    wrong |= write(ends[1], "x", 1) != 1;
    press(PRESSURE);
    for (int i = 0; i < COUNT; i++) wrong |= private[i * PAGE] != (char)200;
    _exit(wrong || view[2 * PAGE] != 98);
  }
  CHECK(read(ends[0], &byte, 1) == 1);
  for (int i = 0; i < KINDS; i++) {
    for (int page = 0; page < COUNT; page++) CHECK(shared[i][page * PAGE] == (page < COUNT / 2 ? 20 : 10) + i);
    shared[i][0] = 1;
  }
  CHECK(is_filled(private, COUNT, 1) && view[0] == 99 && view[2 * PAGE] == 21);
  CHECK(ended_well(child));
  CHECK(is_filled(private, COUNT, 1));
}

// Pages whose parts belong to different threads, all of which start at once.
enum { CROWD = 64, CROWD_PAGES = 3000, CROWD_ROUNDS = 3, CROWD_WRITES = 600 };
static uint64_t *crowded;
static pthread_barrier_t together;
static void *fault_with_all(void *argument) {
  size_t self = (size_t)argument, random = self * 2654435761u + 1;
  for (int round = 0; round < CROWD_ROUNDS; round++) {
    pthread_barrier_wait(&together);
    for (int i = 0; i < CROWD_WRITES; i++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      crowded[random % CROWD_PAGES * (PAGE / 8) + self]++;
    }
  }
  return NULL;
}
static void crowd(void) {
  pthread_t threads[CROWD];
  crowded = (uint64_t *)pages(CROWD_PAGES);
  CHECK(pthread_barrier_init(&together, NULL, CROWD) == 0);
  for (size_t i = 0; i < CROWD; i++) CHECK(pthread_create(&threads[i], NULL, fault_with_all, (void *)i) == 0);
  for (int i = 0; i < CROWD; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  for (size_t i = 0; i < CROWD; i++) {
    uint64_t sum = 0;
    for (int page = 0; page < CROWD_PAGES; page++) sum += crowded[(size_t)page * (PAGE / 8) + i];
    CHECK(sum == CROWD_ROUNDS * CROWD_WRITES);
  }
}

// Limits of what may be mapped: of all, and of what can be written. What is there stays usable, also at the limit.
static void limited(int resource) {
  char *before = filled(COUNT, 3), line[256];
  size_t used = 0, pages_used = 0;
  press(PRESSURE);
  FILE *status = fopen("/proc/self/status", "r");
  while (fgets(line, sizeof line, status)) sscanf(line, resource == RLIMIT_AS ? "VmSize: %zu" : "VmData: %zu", &used);
  fclose(status);
  struct rlimit limit = {(used << 10) + 2 * COUNT * PAGE, RLIM_INFINITY};
  CHECK(setrlimit(resource, &limit) == 0);
  int kind = MAP_PRIVATE | MAP_ANONYMOUS, access = PROT_READ | PROT_WRITE;
  CHECK(mmap(NULL, 16 * COUNT * PAGE, access, kind, -1, 0) == MAP_FAILED && errno == ENOMEM);
  CHECK(sbrk(16 * COUNT * PAGE) == (void *)-1 && errno == ENOMEM);
  CHECK(mremap(before, COUNT * PAGE, 16 * COUNT * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM);
  // What cannot be written counts for one of them alone.
  void *unwritable = mmap(NULL, 16 * COUNT * PAGE, PROT_NONE, kind, -1, 0);
  CHECK((unwritable == MAP_FAILED) == (resource == RLIMIT_AS));
  // What was used may include some memory that does not count for the limit: a rack's.
  while (pages_used < 8 * COUNT && mmap(NULL, PAGE, access, kind, -1, 0) != MAP_FAILED) pages_used++;
  CHECK(errno == ENOMEM && pages_used < 8 * COUNT && pages_used >= COUNT);
  CHECK(is_filled(before, COUNT, 3));
  memset(before, 4, COUNT * PAGE);
  limit.rlim_cur = RLIM_INFINITY;
  CHECK(setrlimit(resource, &limit) == 0);
  press(PRESSURE);
  CHECK(before[0] == 4 && before[COUNT * PAGE - 1] == 4);
}
static void limited_space(void) { limited(RLIMIT_AS); }
static void limited_data(void) { limited(RLIMIT_DATA); }

int main(void) {
  static void (*const parts[])(void) = {chains, same_memory, storms, shared_by_relatives, crowd, limited_space, limited_data};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) apart(parts[i]);
  return check_result();
}
