// Walks a matrix whose rows are seven pages long by blocks of twelve rows, each from its last row to its first, one page of each row at
// a time: many short walks with the same stride. Checks what it finds.
#include "check.h"
#include <stdint.h>

enum { ROW_PAGES = 7, BLOCK_ROWS = 12, BLOCKS = 100, ROUNDS = 3 };

int main(void) {
  char *matrix = pages((long)BLOCKS * BLOCK_ROWS * ROW_PAGES);
  for (long page = 0; page < (long)BLOCKS * BLOCK_ROWS * ROW_PAGES; page++) *(uint64_t *)(matrix + page * PAGE) = (uint64_t)page * 3 + 1;
  for (int round = 0; round < ROUNDS; round++)
    for (int column = 0; column < ROW_PAGES; column++)
      for (long block = 0; block < BLOCKS; block++)
        for (long row = BLOCK_ROWS - 1; row >= 0; row--) {
          long page = (block * BLOCK_ROWS + row) * ROW_PAGES + column;
          CHECK(*(uint64_t *)(matrix + page * PAGE) == (uint64_t)page * 3 + 1);
        }
  if (!check_failures) puts("ok");
  return check_failures != 0;
}
