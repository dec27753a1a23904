// A thread ends without touching the page of its thread descriptor, which was evicted while it slept: the kernel serves
// no fault of an ending thread, and join must return all the same.
#include "check.h"
#include <pthread.h>
#include <sys/syscall.h>

static int sleep_ends[2], ready_ends[2];

static void *sleeper(void *argument) {
  volatile char frame[200000];
  frame[0] = 1;
  if (write(ready_ends[1], "r", 1) != 1) abort();
  // Far from the thread descriptor: a stack pointer in other pages, no library call.
  __asm__ volatile("mov %%rsp, %%r12\n"
                   "lea -100000(%%rsp), %%rsp\n"
                   "xor %%eax, %%eax\n"
                   "syscall\n"
                   "mov $60, %%eax\n"
                   "xor %%edi, %%edi\n"
                   "syscall\n" ::"D"((long)sleep_ends[0]),
                   "S"(frame), "d"(1L)
                   : "rax", "rcx", "r11", "r12", "memory");
  return argument;
}

int main(void) {
  pthread_t thread;
  char byte;
  if (pipe(sleep_ends) || pipe(ready_ends)) return 2;
  pthread_create(&thread, NULL, sleeper, NULL);
  CHECK(read(ready_ends[0], &byte, 1) == 1);
  press(4000);
  CHECK(write(sleep_ends[1], "x", 1) == 1);
  CHECK(pthread_join(thread, NULL) == 0);
  return check_result();
}
