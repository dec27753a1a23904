// Freestanding: no library, no relocation, no vector register (the program's are live), no stack protector. Compiled
// with the flags in Package.swift; a test looks at the section.
#define _GNU_SOURCE
#include "CAgent.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

// Newer than Debian 12's headers.
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
struct uffdio_move {
  __u64 dst, src, len, mode;
  __s64 move;
};
#define UFFDIO_MOVE_MODE_DONTWAKE 1
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define CODE __attribute__((section("lego_agent"), used, noinline))
#define INLINE static inline __attribute__((always_inline))
#define PAGE ((volatile struct lego_agent_page *)(LEGO_AGENT_BASE + LEGO_AGENT_PAGE_OFFSET))
#define EVICTOR_PAGE ((volatile struct lego_agent_page *)(LEGO_AGENT_BASE + LEGO_AGENT_EVICTOR_PAGE_OFFSET))
#define IDENTITY (LEGO_AGENT_BASE + LEGO_AGENT_IDENTITY_OFFSET)
#define POOL (LEGO_AGENT_BASE + LEGO_AGENT_POOL_OFFSET)
#define BUFFER (LEGO_AGENT_BASE + LEGO_AGENT_BUFFER_OFFSET)
#define POOL_BYTES (LEGO_AGENT_BATCH * 4096ull)

// The agent's own descriptors, once it has closed all others.
enum { MOVE_USERFAULT = 0, PIPE = 1, EVICTOR_PIPE = 2, NAMES = 3, MEMORY = LEGO_AGENT_MEMORY_DESCRIPTOR, SELF = 5 };

INLINE long call6(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
INLINE long call3(long number, long a, long b, long c) { return call6(number, a, b, c, 0, 0, 0); }

// Hands the descriptors over, or says which error there was. The kernel adds who the sender is.
CODE static long greet(int socket, int error, int userfault) {
  struct iovec part;
  struct msghdr message;
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control;
  part.iov_base = &error;
  part.iov_len = sizeof error;
  message.msg_name = 0;
  message.msg_namelen = 0;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = 0;
  message.msg_controllen = 0;
  message.msg_flags = 0;
  if (userfault >= 0) {
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    *(int *)CMSG_DATA(&control.header) = userfault;
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(sizeof(int));
  }
  return call3(SYS_sendmsg, socket, (long)&message, MSG_NOSIGNAL);
}

CODE static long prepare(int *userfault) {
  volatile struct lego_agent_page *page = PAGE;
  int device = page->userfault_device, moves;
  struct uffdio_api api;
  struct uffdio_register range;
  long result;

  *userfault = -1;
  if (page->is_new_image) {
    *userfault = (int)call3(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    if (*userfault < 0) return *userfault;
    result = call6(SYS_mmap, IDENTITY, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (result < 0) return result;
    result = call3(SYS_madvise, IDENTITY, 4096, MADV_WIPEONFORK);
    if (result < 0) return result;
  }
  moves = (int)call3(SYS_ioctl, device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (moves < 0) return moves;
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MOVE;
  api.ioctls = 0;
  result = call3(SYS_ioctl, moves, UFFDIO_API, (long)&api);
  if (result < 0) return result;
  result = call6(SYS_mmap, POOL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (result < 0) return result;
  result = call3(SYS_madvise, POOL, POOL_BYTES, MADV_DONTFORK);
  if (result < 0) return result;
  // The code stays: handlers that a forked child has inherited return to it before the child has an agent.
  result = call3(SYS_madvise, LEGO_AGENT_BASE + LEGO_AGENT_CODE_BYTES, LEGO_AGENT_FILE_BYTES - LEGO_AGENT_CODE_BYTES,
                 MADV_DONTFORK);
  if (result < 0) return result;
  range.range.start = POOL;
  range.range.len = POOL_BYTES;
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  range.ioctls = 0;
  result = call3(SYS_ioctl, moves, UFFDIO_REGISTER, (long)&range);
  return result < 0 ? result : moves;
}

// Puts the pages that are to be spliced into the pipe, in the order of the list, as far as it goes.
CODE static void splice_out(volatile struct lego_agent_page *page, uint32_t count, int pipe) {
  struct iovec ranges[LEGO_AGENT_BATCH];
  uint32_t used = 0, left;
  long bytes;
  for (uint32_t i = 0; i < count; i++) {
    volatile struct lego_agent_operation *operation = &page->operations[i];
    if (operation->kind != LEGO_AGENT_SPLICE) continue;
    ranges[used].iov_base = (void *)operation->address;
    ranges[used++].iov_len = operation->pages * 4096ull;
  }
  page->spliced = 0;
  if (used == 0) return;
  bytes = call6(SYS_vmsplice, pipe, (long)ranges, used, SPLICE_F_NONBLOCK, 0, 0);
  left = bytes > 0 ? (uint32_t)(bytes / 4096) : 0;
  page->spliced = left;
  for (uint32_t i = 0; i < count; i++) {
    volatile struct lego_agent_operation *operation = &page->operations[i];
    if (operation->kind != LEGO_AGENT_SPLICE) continue;
    operation->done = left < operation->pages ? left : operation->pages;
    left -= operation->done;
  }
}

// The pages of an operation that are to be dropped: all, or those that are in the pipe.
INLINE uint32_t leaving(volatile struct lego_agent_operation *operation) {
  if (operation->kind == LEGO_AGENT_SPLICE) return operation->done;
  return operation->kind == LEGO_AGENT_DROP ? operation->pages : 0;
}

// Drops all that the list says with one call where the kernel takes a vector for the caller's own memory, else one by
// one.
CODE static void drop(volatile struct lego_agent_page *page, uint32_t count) {
  struct iovec ranges[LEGO_AGENT_BATCH];
  uint64_t bytes = 0;
  uint32_t used = 0;
  for (uint32_t i = 0; i < count; i++) {
    volatile struct lego_agent_operation *operation = &page->operations[i];
    uint32_t pages = leaving(operation);
    operation->failed = 0;
    if (pages == 0) continue;
    ranges[used].iov_base = (void *)operation->address;
    ranges[used].iov_len = pages * 4096ull;
    bytes += ranges[used++].iov_len;
  }
  if (used == 0) return;
  if (used > 1 && call6(SYS_process_madvise, SELF, (long)ranges, used, MADV_DONTNEED, 0, 0) == (long)bytes) return;
  for (uint32_t i = 0; i < count; i++) {
    volatile struct lego_agent_operation *operation = &page->operations[i];
    uint32_t pages = leaving(operation);
    if (pages == 0 || call3(SYS_madvise, operation->address, pages * 4096ull, MADV_DONTNEED) == 0) continue;
    // Locked memory, for instance: which pages remain must be known exactly.
    for (uint32_t at = 0; at < pages; at++)
      if (call3(SYS_madvise, operation->address + at * 4096ull, 4096, MADV_DONTNEED) != 0)
        operation->failed |= 1ull << at;
  }
}

CODE static void evict(volatile struct lego_agent_page *page, int pipe) {
  uint32_t count = page->count;
  int moved = 0;
  if (count > LEGO_AGENT_BATCH) return;
  for (uint32_t i = 0; page->moves && i < count; i++) {
    volatile struct lego_agent_operation *operation = &page->operations[i];
    struct uffdio_move move;
    uint64_t bytes;
    if (operation->kind != LEGO_AGENT_MOVE) continue;
    move.dst = POOL + operation->slot * 4096ull;
    move.src = operation->address;
    move.len = operation->pages * 4096ull;
    move.mode = UFFDIO_MOVE_MODE_DONTWAKE;
    move.move = 0;
    operation->error = call3(SYS_ioctl, MOVE_USERFAULT, UFFDIO_MOVE, (long)&move);
    bytes = move.move > 0 ? (uint64_t)move.move : 0;
    if (bytes) {
      uint64_t left = bytes;
      void *to = (void *)(BUFFER + operation->slot * 4096ull), *from = (void *)move.dst;
      __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(left)::"memory");
      moved = 1;
    }
    // Not before they lie in the buffer: an agent that is killed leaves them either there or in the pool.
    operation->done = (uint32_t)(bytes / 4096);
  }
  if (moved) call3(SYS_madvise, POOL, POOL_BYTES, MADV_DONTNEED);
  splice_out(page, count, pipe);
  drop(page, count);
}

// The address, or an error.
CODE static long map_named(volatile struct lego_agent_page *page) {
  long node, result;
  page->name[LEGO_AGENT_NAME_BYTES - 1] = 0;
  node = call6(SYS_openat, NAMES, (long)page->name, O_RDONLY | O_CLOEXEC, 0, 0, 0);
  if (node < 0) return node;
  result = call6(SYS_mmap, page->arguments[0], page->arguments[1], page->arguments[2], page->arguments[3], node,
                 page->arguments[5]);
  call3(SYS_close, node, 0, 0);
  return result;
}

CODE static long map_file(volatile struct lego_agent_page *page) {
  long file, result;
  long process = call3(SYS_pidfd_open, page->number, 0, 0);
  if (process < 0) return -EBADF;
  file = call3(SYS_pidfd_getfd, process, page->arguments[4], 0);
  call3(SYS_close, process, 0, 0);
  if (file < 0) return -EBADF;
  result = call6(SYS_mmap, page->arguments[0], page->arguments[1], page->arguments[2], page->arguments[3], file,
                 page->arguments[5]);
  call3(SYS_close, file, 0, 0);
  return result;
}

CODE static void serve(volatile struct lego_agent_page *page, int pipe) {
  uint32_t seen = 0;
  for (;;) {
    for (uint32_t i = page->spins; i > 0 && page->requested == seen; i--) __asm__ volatile("pause");
    while (page->requested == seen) {
      page->agent_sleeps = 1;
      __atomic_thread_fence(__ATOMIC_SEQ_CST);
      if (page->requested == seen) call6(SYS_futex, (long)&page->requested, FUTEX_WAIT, seen, 0, 0, 0);
      page->agent_sleeps = 0;
    }
    seen = page->requested;
    page->begun = seen;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (page->command == LEGO_AGENT_CALL) {
      page->result = call6(page->number, page->arguments[0], page->arguments[1], page->arguments[2], page->arguments[3],
                           page->arguments[4], page->arguments[5]);
    } else if (page->command == LEGO_AGENT_EVICT) {
      evict(page, pipe);
    } else if (page->command == LEGO_AGENT_MAP_NAMED) {
      page->result = map_named(page);
    } else if (page->command == LEGO_AGENT_MAP_FILE) {
      page->result = map_file(page);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    page->finished = seen;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (page->processor_sleeps) call6(SYS_futex, (long)&page->finished, FUTEX_WAKE, 1, 0, 0, 0);
  }
}

// clone(operand `flags`, the stack that ends at operand `stack`), tested: 0 in the clone.
#define ASM_CLONE(flags, stack) \
  "mov $56, %%eax\n" \
  "mov %" flags ", %%edi\n" \
  "movabs %" stack ", %%rsi\n" \
  "xor %%edx, %%edx\n" \
  "xor %%r10d, %%r10d\n" \
  "xor %%r8d, %%r8d\n" \
  "syscall\n" \
  "test %%eax, %%eax\n"
// Closes the descriptor at operand `offset` of the page in r12.
#define ASM_CLOSE(offset) \
  "mov %c" offset "(%%r12), %%edi\n" \
  "mov $3, %%eax\n" \
  "syscall\n"

CODE static void lego_agent_evictor_main(void) {
  uint64_t name[2];
  name[0] = 0x6976652d6f67656cull; // "lego-evictor"
  name[1] = 0x726f7463ull;
  call3(SYS_prctl, PR_SET_NAME, (long)name, 0);
  serve(EVICTOR_PAGE, EVICTOR_PIPE);
}

// Starts the second thread. Without one, for want of processes, the first evicts.
CODE __attribute__((naked)) static void start_evictor(void) {
  __asm__ volatile(ASM_CLONE("0", "1")
                   "jz 1f\n"
                   "ret\n"
                   "1: xor %%ebp, %%ebp\n"
                   "call lego_agent_evictor_main\n"
                   "ud2\n" ::"i"(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                                 CLONE_UNTRACED),
                   "i"(LEGO_AGENT_BASE + LEGO_AGENT_EVICTOR_STACK_END));
}

CODE static void lego_agent_main(void) {
  volatile struct lego_agent_page *page = PAGE;
  uint64_t all = ~0ull, name[2];
  int userfault, socket = page->socket;
  long moves, pipe, evictor_pipe, names, memory;

  call6(SYS_rt_sigprocmask, 0 /* SIG_BLOCK */, (long)&all, 0, 8, 0, 0);
  call3(SYS_setsid, 0, 0, 0);
  name[0] = 0x6567612d6f67656cull; // "lego-agent"
  name[1] = 0x746eull;
  call3(SYS_prctl, PR_SET_NAME, (long)name, 0);
  moves = prepare(&userfault);
  pipe = call3(SYS_fcntl, page->pipes[0], F_DUPFD_CLOEXEC, SELF + 1);
  evictor_pipe = call3(SYS_fcntl, page->pipes[1], F_DUPFD_CLOEXEC, SELF + 1);
  names = page->names < 0 ? -1 : call3(SYS_fcntl, page->names, F_DUPFD_CLOEXEC, SELF + 1);
  memory = call3(SYS_fcntl, page->memory_file, F_DUPFD_CLOEXEC, SELF + 1);
  if (moves >= 0 && memory < 0) moves = memory;
  if (moves >= 0 && pipe < 0) moves = pipe;
  if (moves >= 0 && evictor_pipe < 0) moves = evictor_pipe;
  if (moves >= 0) start_evictor();
  // Whoever cannot greet is not wanted any more.
  if (greet(socket, moves < 0 ? (int)moves : 0, userfault) < 0 || moves < 0) call3(SYS_exit_group, 1, 0, 0);
  // The program's pipes and files must not stay open through this process.
  if (moves != MOVE_USERFAULT) call3(SYS_dup3, moves, MOVE_USERFAULT, O_CLOEXEC);
  call3(SYS_dup3, pipe, PIPE, O_CLOEXEC);
  call3(SYS_dup3, evictor_pipe, EVICTOR_PIPE, O_CLOEXEC);
  if (names >= 0)
    call3(SYS_dup3, names, NAMES, O_CLOEXEC);
  else
    call3(SYS_dup3, pipe, NAMES, O_CLOEXEC); // no directory: nothing can be opened there
  call3(SYS_dup3, memory, MEMORY, O_CLOEXEC);
  call3(SYS_close_range, SELF, ~0u, 0);
  call3(SYS_pidfd_open, call3(SYS_getpid, 0, 0, 0), 0, 0);
  serve(page, PIPE);
}

// Where the program's thread is sent: clones an intermediate that clones the agent and ends, so that the program never
// sees the agent as its child; gives the descriptors back; says so, and sleeps until the processor takes it away, which may
// need this very core for that.
CODE __attribute__((naked)) void lego_agent_boot(void) {
  __asm__ volatile("movabs %4, %%r12\n"
                   ASM_CLONE("0", "2")
                   "jz 1f\n"
                   "js 5f\n"
                   "mov %%eax, %%edi\n"
                   "mov $61, %%eax\n" // wait4(intermediate, NULL, __WALL, NULL)
                   "xor %%esi, %%esi\n"
                   "mov $0x40000000, %%edx\n"
                   "xor %%r10d, %%r10d\n"
                   "syscall\n"
                   "3:" ASM_CLOSE("5")
                   ASM_CLOSE("6")
                   ASM_CLOSE("7")
                   ASM_CLOSE("9")
                   ASM_CLOSE("10")
                   ASM_CLOSE("11")
                   "movl $1, %c8(%%r12)\n"
                   "lea %c8(%%r12), %%rdi\n"
                   "mov $202, %%eax\n" // futex(&booted, FUTEX_WAKE, 1)
                   "mov $1, %%esi\n"
                   "mov $1, %%edx\n"
                   "xor %%r10d, %%r10d\n"
                   "syscall\n"
                   "4: mov $202, %%eax\n" // futex(&booted, FUTEX_WAIT, 1, NULL)
                   "xor %%esi, %%esi\n"
                   "syscall\n"
                   "jmp 4b\n"
                   "5: mov %%eax, %c12(%%r12)\n"
                   "jmp 3b\n"
                   "1:" ASM_CLONE("1", "3")
                   "jz 2f\n"
                   "jns 6f\n"
                   "mov %%eax, %c12(%%r12)\n"
                   "6: xor %%edi, %%edi\n"
                   "mov $231, %%eax\n" // exit_group
                   "syscall\n"
                   "2: xor %%ebp, %%ebp\n"
                   "call lego_agent_main\n"
                   "ud2\n" ::"i"(CLONE_VM | CLONE_VFORK | CLONE_UNTRACED),
                   "i"(CLONE_VM | CLONE_UNTRACED), "i"(LEGO_AGENT_BASE + LEGO_AGENT_BOOT_STACK_END - 0x800),
                   "i"(LEGO_AGENT_BASE + LEGO_AGENT_STACK_END), "i"(LEGO_AGENT_BASE + LEGO_AGENT_PAGE_OFFSET),
                   "i"(offsetof(struct lego_agent_page, memory_file)),
                   "i"(offsetof(struct lego_agent_page, userfault_device)),
                   "i"(offsetof(struct lego_agent_page, socket)), "i"(offsetof(struct lego_agent_page, booted)),
                   "i"(offsetof(struct lego_agent_page, pipes[0])),
                   "i"(offsetof(struct lego_agent_page, pipes[1])), "i"(offsetof(struct lego_agent_page, names)),
                   "i"(offsetof(struct lego_agent_page, clone_error)));
}

// Where handlers of signals return to that were installed without SA_RESTART (MonitorCore+Handlers.swift). The bytes
// are those of every C library's restorer, by which debuggers and libgcc know a signal's frame. The monitor answers
// this call, which may be interrupted itself.
CODE __attribute__((naked)) void lego_agent_restorer(void) {
  __asm__ volatile("1: .byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05\n" // mov $15, %rax; syscall
                   "jmp 1b\n");
}

extern const char __start_lego_agent[], __stop_lego_agent[];

const void *lego_agent_code(void) { return __start_lego_agent; }
uint64_t lego_agent_code_bytes(void) { return (uint64_t)(__stop_lego_agent - __start_lego_agent); }
uint64_t lego_agent_restorer_offset(void) { return (uint64_t)((const char *)lego_agent_restorer - __start_lego_agent); }
uint64_t lego_agent_boot_offset(void) { return (uint64_t)((const char *)lego_agent_boot - __start_lego_agent); }
