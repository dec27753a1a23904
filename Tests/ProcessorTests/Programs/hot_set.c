// A hot set that fits beside a scan that does not: what of it is kept while the scan goes by shows in the remote reads. Checks what
// it reads.
#include "check.h"
#include <stdint.h>

// No used page lies next to another one: nothing is brought ahead of its use.
enum { HOT = 512, COLD = 8192, ROUNDS = 12, APART = 3 };

static unsigned random_state = 1;
static unsigned scattered(unsigned count) {
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) % count;
}

int main(void) {
  uint64_t *memory = (uint64_t *)pages((HOT + COLD) * APART);
  for (size_t page = 0; page < HOT + COLD; page++) memory[page * APART * 512] = page + 7;
  for (int round = 0; round < ROUNDS; round++) {
    for (size_t at = 0; at < HOT; at++) {
      size_t page = 0; // the nine bits of `at` backwards: every page once, and neither next to each other nor at one distance
      for (int bit = 0; bit < 9; bit++) page |= (at >> bit & 1) << (8 - bit);
      CHECK(memory[page * APART * 512] == page + 7);
    }
    for (int i = 0; i < 1000; i++) {
      size_t page = HOT + scattered(COLD);
      CHECK(memory[page * APART * 512] == page + 7);
    }
  }
  if (!check_failures) puts("ok");
  return check_failures != 0;
}
