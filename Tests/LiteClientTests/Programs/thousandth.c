// One of many programs that have joined at the same time: thousandth SOCKET PROGRAMS NUMBER.
#include "lite.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(int status, const char *what) {
  if (status == LITE_OK) return;
  printf("%s: %s\n", what, lite_status_text(status));
  exit(1);
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  alarm(120);
  unsigned programs = (unsigned)atoi(arguments[2]);
  lite_t *lite;
  lite_handle_t region;
  char mine[4096], read[4096];
  memset(mine, atoi(arguments[3]) & 0xff, sizeof mine);
  check(lite_join(arguments[1], 1, LITE_PRIORITY_NORMAL, &lite), "join");
  check(lite_malloc(lite, LITE_SELF, sizeof mine, &region), "malloc");
  check(lite_write(lite, region, 0, mine, sizeof mine), "write");
  check(lite_barrier(lite, "all", programs, 100000), "barrier");
  check(lite_read(lite, region, 0, read, sizeof read), "read");
  if (memcmp(mine, read, sizeof mine) != 0) {
    printf("the bytes are not those that were written\n");
    return 1;
  }
  lite_leave(lite);
  printf("ok\n");
  return 0;
}
