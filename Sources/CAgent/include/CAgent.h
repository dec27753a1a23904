// The agent: a thread of execution that the processor puts into a program's address space, because the kernel lets only
// a task of that address space map memory there and move pages out of it (UFFDIO_MOVE). It runs from one shared memory
// file that is mapped at LEGO_AGENT_BASE in the program and anywhere in the processor. Everything in it belongs to the
// program: the processor checks whatever it reads there.
#pragma once
#include <stdint.h>

#define LEGO_AGENT_BASE 0x7e9000000000ull
// Nothing of the program may be mapped in [LEGO_AGENT_BASE, LEGO_AGENT_BASE + LEGO_AGENT_SPAN).
#define LEGO_AGENT_SPAN 0x400000ull
// Offsets from the base, within the shared file.
#define LEGO_AGENT_CODE_BYTES 0x4000ull
#define LEGO_AGENT_PAGE_OFFSET 0x4000ull
#define LEGO_AGENT_BOOT_STACK_END 0x8000ull
#define LEGO_AGENT_STACK_END 0xfff0ull
#define LEGO_AGENT_BUFFER_OFFSET 0x10000ull
// The second thread, which evicts while the first one may be called: its page and its stack.
#define LEGO_AGENT_EVICTOR_PAGE_OFFSET 0x50000ull
#define LEGO_AGENT_EVICTOR_STACK_END 0x57ff0ull
#define LEGO_AGENT_FILE_BYTES 0x58000ull
// Private pages beyond the file: the identity that a fork wipes, and where pages are moved on their way out.
#define LEGO_AGENT_IDENTITY_OFFSET 0x100000ull
#define LEGO_AGENT_POOL_OFFSET 0x200000ull
// Pages, and operations, of one batch.
#define LEGO_AGENT_BATCH 64u
#define LEGO_AGENT_NAME_BYTES 4096u
// The number of the memory file in the agent's own descriptor table.
#define LEGO_AGENT_MEMORY_DESCRIPTOR 4

enum lego_agent_command {
  LEGO_AGENT_CALL = 1,  // one system call
  LEGO_AGENT_EVICT = 2, // operations[0..<count]
  // mmap(2) with `arguments`, of the node that stands for a file in the tree of names: memory that is anonymous to the
  // kernel, and has the file's name in /proc.
  LEGO_AGENT_MAP_NAMED = 3,
  // mmap(2) with `arguments`, of the file that has the number argument 4 in the process `number`. -EBADF where the agent
  // may not have the file.
  LEGO_AGENT_MAP_FILE = 4,
};

enum lego_agent_operation_kind {
  LEGO_AGENT_DROP = 1, // MADV_DONTNEED
  LEGO_AGENT_MOVE = 2, // UFFDIO_MOVE into the pool, then a copy into the buffer at `slot`
  // vmsplice(2) into the pipe, then MADV_DONTNEED. The pipe holds the page itself: what is read from it afterwards
  // has every write that any thread made until the page was unmapped.
  LEGO_AGENT_SPLICE = 3,
};

struct lego_agent_operation {
  uint64_t address;
  uint32_t pages;
  uint32_t slot;
  uint32_t kind;
  // Out: pages moved or spliced, the error that ended it (negative) or 0, and a bit for every page that could not be
  // dropped.
  uint32_t done;
  int64_t error;
  uint64_t failed;
};

// The page through which the processor and one thread of the agent talk.
struct lego_agent_page {
  // Written before the injection, read by the processor through the program to learn which address space this is.
  uint64_t nonce;
  uint64_t identity;
  // In the program's descriptor table while it boots.
  int32_t memory_file;
  int32_t userfault_device;
  int32_t socket;
  int32_t pipes[2]; // the ends to write to, of the first thread and of the second
  int32_t names;    // the tree of names; -1: there is none
  // Whether the address space needs a userfaultfd of its own: a new image does, a forked child has inherited one.
  uint32_t is_new_image;
  uint32_t booted;
  // Why no agent could be cloned (negative), 0 when one was: if it says nothing all the same, somebody has killed it.
  int32_t clone_error;
  // The request that the agent has begun with.
  uint32_t begun;
  // A request is posted by adding one to `requested`, answered by storing the same number in `finished`. Each side says
  // that it is about to sleep before it looks once more.
  uint32_t requested;
  uint32_t finished;
  uint32_t agent_sleeps;
  uint32_t processor_sleeps;
  uint32_t command;
  uint32_t count;
  uint32_t moves; // how many of the operations are moves
  uint32_t spliced; // out: pages that went into the pipe, those of the first operations
  uint32_t spins; // how long the agent polls before it sleeps
  int64_t number;
  int64_t arguments[6];
  int64_t result;
  struct lego_agent_operation operations[LEGO_AGENT_BATCH];
  // LEGO_AGENT_MAP_NAMED: a path without its first slash, ended by a zero byte. Else what a call reads from the memory
  // file into the program.
  char name[LEGO_AGENT_NAME_BYTES];
};

_Static_assert(sizeof(struct lego_agent_operation) == 40, "layout shared between two programs");
_Static_assert(LEGO_AGENT_EVICTOR_PAGE_OFFSET == LEGO_AGENT_BUFFER_OFFSET + LEGO_AGENT_BATCH * 4096ull,
               "the evictor's page follows the buffer");
_Static_assert(sizeof(struct lego_agent_page) <= 0x2000, "two pages");

// The agent's machine code, position-dependent at LEGO_AGENT_BASE; where a program's thread enters it; and where handlers of
// signals return to.
const void *lego_agent_code(void);
uint64_t lego_agent_code_bytes(void);
uint64_t lego_agent_boot_offset(void);
uint64_t lego_agent_restorer_offset(void);
