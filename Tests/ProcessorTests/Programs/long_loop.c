// Runs through memory that is larger than the room, round after round, reading; a write in each round shows that what is read is the
// newest. Checks what it finds.
#include "check.h"
#include <stdint.h>

enum { PAGES = 5120, ROUNDS = 8 };

int main(void) {
  char *memory = pages(PAGES);
  for (long page = 0; page < PAGES; page++) *(uint64_t *)(memory + page * PAGE) = (uint64_t)page * 3;
  for (long round = 0; round < ROUNDS; round++) {
    for (long page = 0; page < PAGES; page++) {
      uint64_t rounds = page % 64 == 0 ? (uint64_t)round : 0;
      CHECK(*(uint64_t *)(memory + page * PAGE) == (uint64_t)page * 3 + rounds);
      if (page % 64 == 0) *(uint64_t *)(memory + page * PAGE) += 1;
    }
  }
  if (!check_failures) puts("ok");
  return check_failures != 0;
}
