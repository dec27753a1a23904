// Buffers that the kernel reads and writes elsewhere than in a call's own thread or own memory, none of them resident
// when it begins: io_uring with and without registered buffers and with a thread of the kernel's that polls, files
// without the page cache, pages in pipes, and other processes' memory. The first argument is a file to make.
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { COUNT = 64, ENTRIES = 8 };
static const char *path;

struct ring {
  int descriptor;
  unsigned *tail, *array, mask, *flags;
  unsigned *done_head, *done_tail, done_mask;
  struct io_uring_sqe *entries;
  struct io_uring_cqe *done;
};

static int make_ring(struct ring *ring, unsigned flags) {
  struct io_uring_params parameters = {.flags = flags, .sq_thread_idle = 50};
  ring->descriptor = (int)syscall(SYS_io_uring_setup, ENTRIES, &parameters);
  if (ring->descriptor < 0) return 0;
  size_t bytes = parameters.sq_off.array + ENTRIES * sizeof(unsigned);
  size_t done_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
  char *submission = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->descriptor, (off_t)IORING_OFF_SQ_RING);
  char *completion = mmap(NULL, done_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->descriptor, (off_t)IORING_OFF_CQ_RING);
  ring->entries = mmap(NULL, ENTRIES * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring->descriptor,
                       (off_t)IORING_OFF_SQES);
  ring->tail = (unsigned *)(submission + parameters.sq_off.tail);
  ring->flags = (unsigned *)(submission + parameters.sq_off.flags);
  ring->array = (unsigned *)(submission + parameters.sq_off.array);
  ring->mask = *(unsigned *)(submission + parameters.sq_off.ring_mask);
  ring->done_head = (unsigned *)(completion + parameters.cq_off.head);
  ring->done_tail = (unsigned *)(completion + parameters.cq_off.tail);
  ring->done_mask = *(unsigned *)(completion + parameters.cq_off.ring_mask);
  ring->done = (struct io_uring_cqe *)(completion + parameters.cq_off.cqes);
  return 1;
}

// Carries one operation out; answers its result.
static int carry_out(struct ring *ring, struct io_uring_sqe entry, unsigned flags) {
  unsigned tail = *ring->tail, enter = IORING_ENTER_GETEVENTS;
  ring->entries[tail & ring->mask] = entry;
  ring->array[tail & ring->mask] = tail & ring->mask;
  __atomic_store_n(ring->tail, tail + 1, __ATOMIC_SEQ_CST);
  if (flags & IORING_SETUP_SQPOLL && __atomic_load_n(ring->flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
    enter |= IORING_ENTER_SQ_WAKEUP;
  while (__atomic_load_n(ring->done_tail, __ATOMIC_SEQ_CST) == *ring->done_head)
    if (syscall(SYS_io_uring_enter, ring->descriptor, 1, 1, enter, NULL, 0) < 0 && errno != EINTR) return -errno;
  int result = ring->done[*ring->done_head & ring->done_mask].res;
  __atomic_store_n(ring->done_head, *ring->done_head + 1, __ATOMIC_SEQ_CST);
  return result;
}

// Writes `from` and reads it into `into`, both evicted, as whole buffers.
static void there_and_back(struct ring *ring, unsigned flags, int file, int write, int read, unsigned char how) {
  char *from = filled(COUNT, 1), *into = filled(COUNT, 100);
  struct iovec parts[2] = {{from, COUNT * PAGE}, {into, COUNT * PAGE}};
  int is_fixed = write == IORING_OP_WRITE_FIXED;
  if (is_fixed) CHECK(syscall(SYS_io_uring_register, ring->descriptor, IORING_REGISTER_BUFFERS, parts, 2) == 0);
  int is_vector = write == IORING_OP_WRITEV;
  for (int round = 0; round < 2; round++) {
    press(PRESSURE);
    struct io_uring_sqe entry = {.opcode = (uint8_t)write, .fd = file, .flags = how, .len = is_vector ? 1 : COUNT * PAGE};
    entry.addr = is_vector ? (uintptr_t)&parts[0] : (uintptr_t)from;
    CHECK(carry_out(ring, entry, flags) == COUNT * PAGE);
    press(PRESSURE);
    entry.opcode = (uint8_t)read;
    entry.addr = is_vector ? (uintptr_t)&parts[1] : (uintptr_t)into;
    entry.buf_index = is_fixed;
    CHECK(carry_out(ring, entry, flags) == COUNT * PAGE);
    press(PRESSURE);
    CHECK(is_filled(into, COUNT, 1));
    memset(into, 0, COUNT * PAGE);
  }
  if (is_fixed) CHECK(syscall(SYS_io_uring_register, ring->descriptor, IORING_UNREGISTER_BUFFERS, NULL, 0) == 0);
  munmap(from, COUNT * PAGE);
  munmap(into, COUNT * PAGE);
}

static int rings(void) {
  struct ring ring;
  for (unsigned flags = 0; flags <= IORING_SETUP_SQPOLL; flags += IORING_SETUP_SQPOLL) {
    if (!make_ring(&ring, flags)) return 0;
    for (int direct = 0; direct < 2; direct++) {
      int file = open(path, O_RDWR | O_CREAT | O_TRUNC | (direct ? O_DIRECT : 0), 0600);
      if (direct && file < 0 && errno == EINVAL) break;
      CHECK(file >= 0);
      // Carried out at once where that is possible, and by a thread of the kernel's.
      for (unsigned how = 0; how <= IOSQE_ASYNC; how += IOSQE_ASYNC) {
        there_and_back(&ring, flags, file, IORING_OP_WRITE, IORING_OP_READ, (unsigned char)how);
        there_and_back(&ring, flags, file, IORING_OP_WRITEV, IORING_OP_READV, (unsigned char)how);
        there_and_back(&ring, flags, file, IORING_OP_WRITE_FIXED, IORING_OP_READ_FIXED, (unsigned char)how);
      }
      close(file);
    }
    close(ring.descriptor);
  }
  unlink(path);
  return 1;
}

// What is in a pipe is what was in memory when it was put there, wherever the pages have gone since.
static void in_pipes(unsigned flags) {
  int ends[2], others[2];
  enum { IN_PIPE = 16 };
  char *from = filled(IN_PIPE, 3), got[IN_PIPE * PAGE];
  CHECK(pipe(ends) == 0 && pipe(others) == 0);
  press(PRESSURE);
  struct iovec part = {from, IN_PIPE * PAGE};
  CHECK(vmsplice(ends[1], &part, 1, flags) == IN_PIPE * PAGE);
  press(PRESSURE);
  CHECK(tee(ends[0], others[1], IN_PIPE * PAGE, 0) == IN_PIPE * PAGE);
  CHECK(read(others[0], got, sizeof got) == sizeof got && is_filled(got, IN_PIPE, 3));
  if (flags & SPLICE_F_GIFT) {
    // What was given away is not touched any more.
    munmap(from, IN_PIPE * PAGE);
  } else {
    CHECK(is_filled(from, IN_PIPE, 3));
  }
  press(PRESSURE);
  char *into = filled(IN_PIPE, 50);
  press(PRESSURE);
  part.iov_base = into;
  CHECK(vmsplice(ends[0], &part, 1, 0) == IN_PIPE * PAGE);
  press(PRESSURE);
  CHECK(is_filled(into, IN_PIPE, 3));
  for (int i = 0; i < 2; i++) close(ends[i]), close(others[i]);
}

// A child's memory and the parent's, none of it resident, read and written by the other.
static void of_others(void) {
  int to_child[2], to_parent[2], status;
  char byte, *memory = filled(COUNT, 7), *mine = filled(COUNT, 90);
  CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
  pid_t child = fork();
  if (child == 0) {
    memset(memory, 0, COUNT * PAGE);
    for (int i = 0; i < COUNT; i++) memset(memory + i * PAGE, 20 + i, PAGE);
    press(PRESSURE);
    if (write(to_parent[1], "r", 1) != 1 || read(to_child[0], &byte, 1) != 1) _exit(2);
    press(PRESSURE);
    _exit(!is_filled(memory, COUNT, 90));
  }
  CHECK(read(to_parent[0], &byte, 1) == 1);
  press(PRESSURE);
  struct iovec theirs = {memory, COUNT * PAGE}, ours = {mine, COUNT * PAGE};
  char *copy = filled(COUNT, 0);
  struct iovec into = {copy, COUNT * PAGE};
  press(PRESSURE);
  CHECK(process_vm_readv(child, &into, 1, &theirs, 1, 0) == COUNT * PAGE);
  press(PRESSURE);
  CHECK(is_filled(copy, COUNT, 20));
  CHECK(process_vm_writev(child, &ours, 1, &theirs, 1, 0) == COUNT * PAGE);
  CHECK(write(to_child[1], "g", 1) == 1);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(is_filled(memory, COUNT, 7));
}

// A process shows its arguments and environment to others, who read its stack where the kernel waits for no fault.
static void arguments_of_others(void) {
  char name[64], number[32] = "", text[4096] = "";
  int ready[2], status;
  CHECK(pipe(ready) == 0);
  pid_t child = fork();
  if (child == 0) {
    // Its number where /proc is that of another pid namespace.
    ssize_t length = readlink("/proc/self", number, sizeof number - 1);
    press(PRESSURE);
    if (length <= 0 || write(ready[1], number, (size_t)length) != length) _exit(2);
    pause();
  }
  CHECK(read(ready[0], number, sizeof number - 1) > 0);
  press(PRESSURE);
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "/proc/%s/%s", number, i ? "environ" : "cmdline");
    int file = open(name, O_RDONLY);
    ssize_t count = read(file, text, sizeof text - 1);
    CHECK(count > 0);
    CHECK(i ? memmem(text, (size_t)count, "PATH=", 5) != NULL : strstr(text, "kernel_buffers") != NULL);
    close(file);
  }
  kill(child, SIGKILL);
  CHECK(waitpid(child, &status, 0) == child);
}

int main(int count, char **arguments) {
  if (count < 2) return 2;
  path = arguments[1];
  in_pipes(0);
  in_pipes(SPLICE_F_GIFT);
  of_others();
  arguments_of_others();
  if (!rings() && !check_failures) {
    puts("skipped");
    return 0;
  }
  return check_result();
}
