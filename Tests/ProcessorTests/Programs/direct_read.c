// Reads a file with O_DIRECT while another thread has memory evicted: what the device writes must not be lost. Prints
// "skipped" where the file system has no direct access. The first argument is a file to make.
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

enum { COUNT = 3000, ROUNDS = 12 };
static volatile int done;

static void *thrash(void *argument) {
  char *memory = pages(COUNT);
  (void)argument;
  for (char tag = 1; !done; tag++)
    for (int i = 0; i < COUNT && !done; i++) memory[i * PAGE] = tag;
  return NULL;
}

int main(int count, char **values) {
  if (count < 2) return 2;
  char *buffer = pages(COUNT);
  int file = open(values[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(file >= 0);
  for (int i = 0; i < COUNT; i++) {
    memset(buffer, i % 251 + 1, PAGE);
    CHECK(write(file, buffer, PAGE) == PAGE);
  }
  CHECK(fsync(file) == 0);
  close(file);
  file = open(values[1], O_RDONLY | O_DIRECT);
  if (file < 0 && errno == EINVAL) {
    puts("skipped");
    return 0;
  }
  CHECK(file >= 0);
  pthread_t thread;
  pthread_create(&thread, NULL, thrash, NULL);
  for (int round = 0; round < ROUNDS && !check_failures; round++) {
    memset(buffer, 0, COUNT * PAGE);
    for (long at = 0; at < COUNT * (long)PAGE;) {
      long left = COUNT * (long)PAGE - at;
      ssize_t got = pread(file, buffer + at, left < 1 << 20 ? (size_t)left : 1 << 20, at);
      if (got <= 0) break;
      at += got;
    }
    for (int i = 0; i < COUNT; i++) {
      char byte = (char)(i % 251 + 1);
      CHECK(buffer[i * PAGE] == byte && buffer[i * PAGE + 4095] == byte);
    }
  }
  done = 1;
  pthread_join(thread, NULL);
  return check_result();
}
