// The parts of lego-sandbox: one guardian, the namespace's first process and the program's first process, in this
// order.
//
//   guardian.c  outside the namespaces; between the daemon and the program; kills the one when the other dies
//   init.c      process 1 inside: builds the root, starts the program, reaps
//   root.c      the file system that the program sees
//   program.c   process 2 inside, and those that join: rights, limits, filter, exec
//   terminal.c  a terminal of the sandbox for one of those
//   start.c     the start message
//
// Beside them, one for the whole processor:
//
//   release.c   aborts the processor's file systems when it has been killed
#pragma once
#include "lego_sandbox.h"
#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// A start message, checked. The pointers lead into one allocation that lives as long as the process.
struct start {
  struct lego_sandbox_start header;
  struct sock_filter *filter;
  uint32_t *groups;
  const char *directory;
  char **arguments;   // ends with NULL
  char **environment; // ends with NULL
  int streams[3];
  int memory;   // what is mounted on /proc/meminfo; -1: nothing
  int terminal; // the end of the terminal that the program gets; -1: the streams count
};

// Why a start failed, as the report to the daemon says it.
struct failure {
  enum lego_sandbox_stage stage;
  int error;
  const char *subject;
};

// Receives and checks the message that a sandbox is prepared with; waits at most so long. 0, or -errno.
int start_receive_preparation(int control, int deadline_ms, struct lego_sandbox_prepare *preparation);
// Waits for the start message and checks it. 0, or -errno; -ECONNRESET when there will be none.
int start_receive(int inner, struct start *start);
void start_close_streams(const struct start *start);
// Reads and checks what comes with a header. 0, or -errno.
int start_parse(int file, struct start *start);

// Opens a terminal in the sandbox's own instance of devpts, of the size and for the user that the header names. The
// program's end goes to start->terminal. Answers the other one, or -errno.
int terminal_open(struct start *start);
// Makes the terminal the calling process's, with a session of its own. 0 or -errno.
int terminal_take(int terminal);

// Sends a report of the given kind with at most two descriptors (-1: none). 0 or -errno.
int inner_send(int inner, enum lego_sandbox_inner kind, int status, int descriptor, int terminal);
// Sends why the start failed, and ends the process.
_Noreturn void inner_fail(int inner, struct failure failure);

// Each runs a process to its end.
_Noreturn void guardian_run(void);
// `mounts` ends with NULL.
_Noreturn void release_run(char **mounts);
_Noreturn void init_run(const struct lego_sandbox_prepare *preparation, int inner);
_Noreturn void program_run(const struct start *start, int inner);

// Makes the tree the root of this mount namespace, with file systems of its own for /proc, /dev, /sys and /tmp, and
// lets go of the old root. Answers 0, or -1 and the failure.
int root_build(const struct lego_sandbox_prepare *preparation, struct failure *failure);
// Adds what depends on the program.
int root_finish(const struct start *start, struct failure *failure);
