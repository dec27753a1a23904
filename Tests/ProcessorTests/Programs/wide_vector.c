// Values that live in vector registers across every kind of fault and trapped call: whoever enters the program must
// leave them.
#include "check.h"
#include <signal.h>
#include <sys/wait.h>

static double spin(volatile double *cells, int count) {
  double a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
  for (int i = 0; i < count; i++) {
    double value = cells[(i * 7919 % 3000) * (PAGE / sizeof(double))];
    a += value;
    b -= a * 0.5;
    c += b * 0.25;
    d -= c * 0.125;
    e += d * 0.0625;
    f -= e * 0.03125;
    if (i % 1000 == 0) {
      char *memory = pages(3);
      memory[PAGE] = 1;
      munmap(memory, 3 * PAGE);
    }
  }
  return a + b + c + d + e + f;
}

int main(void) {
  volatile double *cells = (volatile double *)pages(3000);
  for (int i = 0; i < 3000; i++) cells[i * (PAGE / sizeof(double))] = i % 17;
  double first = spin(cells, 20000), second = spin(cells, 20000);
  CHECK(first == second);
  pid_t child = fork();
  if (child == 0) _exit(spin(cells, 20000) != first);
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  return check_result();
}
