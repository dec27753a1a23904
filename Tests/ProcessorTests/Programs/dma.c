// A buffer that is registered with io_uring is pinned: eviction must leave it where the kernel writes. Prints "skipped"
// where there is no io_uring. The first argument is a file to make.
#include "check.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { COUNT = 64 };

int main(int count, char **arguments) {
  if (count < 2) return 2;
  struct io_uring_params parameters = {0};
  int ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
  char *memory = pages(COUNT), *block = malloc(COUNT * PAGE);
  memset(memory, 1, COUNT * PAGE);
  struct iovec buffer = {memory, COUNT * PAGE};
  if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) < 0) {
    puts("skipped");
    return 0;
  }
  size_t bytes = parameters.sq_off.array + parameters.sq_entries * 4;
  char *submission = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, (off_t)IORING_OFF_SQ_RING);
  struct io_uring_sqe *entry = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, (off_t)IORING_OFF_SQES);
  press(4000);
  int file = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  memset(block, 0x5a, COUNT * PAGE);
  CHECK(write(file, block, COUNT * PAGE) == COUNT * PAGE);
  *entry = (struct io_uring_sqe){
      .opcode = IORING_OP_READ_FIXED, .fd = file, .addr = (unsigned long)memory, .len = COUNT * PAGE};
  *(unsigned *)(submission + parameters.sq_off.array) = 0;
  __atomic_fetch_add((unsigned *)(submission + parameters.sq_off.tail), 1, __ATOMIC_SEQ_CST);
  CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
  for (int i = 0; i < COUNT * PAGE; i += PAGE) CHECK(memory[i] == 0x5a);
  unlink(arguments[1]);
  return check_result();
}
