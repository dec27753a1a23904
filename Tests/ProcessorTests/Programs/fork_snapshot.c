// fork takes a snapshot, also of what is not in local memory: children and grandchildren verify it while their parent
// goes on writing. posix_spawn works, the agent is nobody's child, and signals arrive while memory is pressed.
#include "check.h"
#include <signal.h>
#include <spawn.h>
#include <sys/time.h>
#include <sys/wait.h>

enum { COUNT = 4000, WORDS = PAGE / sizeof(long) };
extern char **environ;
static long *words;
static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
  (void)number;
  alarms++;
}

static long wrong(long base, long step, int scale) {
  long found = 0;
  for (int i = 0; i < COUNT; i += (int)step) found += words[i * WORDS + 3] != base + i * scale;
  return found;
}

static void child(long base) {
  long found = wrong(base, 1, 1) + wrong(base, 1, 1);
  for (int i = 0; i < COUNT; i += 2) words[i * WORDS + 3] = 77;
  char *memory = malloc(3000000);
  memset(memory, 1, 3000000);
  pid_t grandchild = fork();
  if (grandchild == 0) _exit(wrong(77, 2, 0) != 0);
  int status = -1;
  waitpid(grandchild, &status, 0);
  _exit(found != 0 || status != 0 || wrong(77, 2, 0) != 0);
}

int main(void) {
  words = (long *)pages(COUNT);
  signal(SIGALRM, on_alarm);
  for (int generation = 1; generation <= 3; generation++) {
    for (int i = 0; i < COUNT; i++) words[i * WORDS + 3] = generation * 100000 + i;
    pid_t started = fork();
    if (started == 0) child(generation * 100000);
    for (int i = 0; i < COUNT; i++) words[i * WORDS + 3] = generation * 200000 + i;
    int status = -1;
    waitpid(started, &status, 0);
    CHECK(status == 0);
    CHECK(wrong(generation * 200000, 1, 1) == 0);
  }
  char *arguments[] = {"true", NULL};
  pid_t spawned;
  int status = -1;
  CHECK(posix_spawnp(&spawned, "true", NULL, NULL, arguments, environ) == 0);
  CHECK(waitpid(spawned, &status, 0) == spawned && status == 0);
  CHECK(waitpid(-1, &status, 0) == -1);
  struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &often, NULL);
  for (int round = 0; round < 3 || alarms == 0; round++) CHECK(wrong(600000, 1, 1) == 0);
  setitimer(ITIMER_REAL, &never, NULL);
  return check_result();
}
