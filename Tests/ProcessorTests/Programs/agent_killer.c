// kill(-1, SIGKILL) reaches everything in the namespace but the caller and the first process: the agent dies, and the
// program must go on with all its memory.
#include "check.h"
#include <signal.h>

int main(void) {
  char *memory = pages(4000);
  for (int i = 0; i < 4000; i++) memory[i * PAGE + 9] = (char)(i % 251);
  for (int round = 0; round < 3; round++) {
    CHECK(kill(-1, SIGKILL) == 0);
    press(500);
    for (int i = 0; i < 4000; i++) CHECK(memory[i * PAGE + 9] == (char)((i + round) % 251));
    for (int i = 0; i < 4000; i++) memory[i * PAGE + 9] = (char)((i + round + 1) % 251);
  }
  return check_result();
}
