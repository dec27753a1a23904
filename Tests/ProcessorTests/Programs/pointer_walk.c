// Walks records that lie one behind the other and point to pages that do not, upwards and downwards, and reads or writes those. Checks
// what it finds.
#include "check.h"
#include <stdint.h>

enum { RECORDS = 16384, WALKS = 6 };

struct record {
  uint64_t *page;
  uint64_t number;
  uint64_t unused[6];
};

int main(int count, char **values) {
  int writes = count > 1 && !strcmp(values[1], "write");
  char *data = pages(RECORDS);
  struct record *records = (struct record *)pages(RECORDS * sizeof(struct record) / PAGE);
  for (uint64_t i = 0; i < RECORDS; i++) {
    // An odd factor permutes a power of two.
    records[i].page = (uint64_t *)(data + i * 40503 % RECORDS * PAGE);
    records[i].number = i;
    *records[i].page = i * 3;
  }
  for (uint64_t walk = 0; walk < WALKS; walk++)
    for (uint64_t i = 0; i < RECORDS; i++) {
      struct record *record = &records[walk % 2 ? RECORDS - 1 - i : i];
      uint64_t expected = record->number * 3 + (writes ? walk : 0);
      CHECK(*record->page == expected);
      if (writes) *record->page = expected + 1;
    }
  if (!check_failures) puts("ok");
  return check_failures != 0;
}
