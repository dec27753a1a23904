// A forked child that has made no call yet, and so has no agent, is interrupted by a signal whose handler it has inherited: without
// SA_RESTART, and so with a way back that is the agent's.
#include "check.h"
#include <signal.h>
#include <sys/wait.h>

enum { CHILDREN = 20 };

static volatile int is_handled;
static void handle(int number) {
  (void)number;
  is_handled = 1;
}

static void child_is_interrupted(void) {
  int ready[2], status = -1;
  char byte = 1;
  CHECK(pipe(ready) == 0);
  pid_t child = fork();
  if (child == 0) {
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    while (!is_handled) continue;
    _exit(7);
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  kill(child, SIGUSR1);
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
  close(ready[0]);
  close(ready[1]);
}

int main(void) {
  struct sigaction action = {.sa_handler = handle};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  for (int i = 0; i < CHILDREN; i++) child_is_interrupted();
  press(3000);
  return check_result();
}
