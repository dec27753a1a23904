// Takes one of everything and waits to be killed. Argument: socket. Prints "ready".
#include <lite.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *write_on(void *argument) {
  static char buffer[200000];
  lite_t *lite = argument;
  lite_handle_t handle;
  if (lite_map(lite, "kept", LITE_WRITE, &handle, NULL) != LITE_OK) exit(3);
  while (lite_write(lite, handle, 0, buffer, sizeof buffer) == LITE_OK) {}
  return NULL;
}

static void *wait_for_call(void *argument) {
  char buffer[64];
  lite_request_t request;
  while (lite_receive(argument, 50, buffer, sizeof buffer, &request, -1) == LITE_OK) {}
  return NULL;
}

int main(int count, char **arguments) {
  alarm(60);
  lite_t *lite;
  lite_handle_t kept, lost;
  lite_lock_t lock;
  if (count != 2 || lite_join(arguments[1], 1, LITE_PRIORITY_NORMAL, &lite) != LITE_OK) return 2;
  if (lite_malloc(lite, LITE_SELF, 300000, &kept) != LITE_OK || lite_name(lite, kept, "kept") != LITE_OK) return 2;
  if (lite_malloc(lite, LITE_SELF, 500000, &lost) != LITE_OK) return 2;
  if (lite_lock_open(lite, "held", &lock) != LITE_OK || lite_lock(lite, lock, -1) != 0) return 2;
  if (lite_register(lite, 50, 64, 4) != LITE_OK) return 2;
  pthread_t threads[2];
  pthread_create(&threads[0], NULL, write_on, lite);
  pthread_create(&threads[1], NULL, wait_for_call, lite);
  puts("ready");
  fflush(stdout);
  for (;;) pause();
}
