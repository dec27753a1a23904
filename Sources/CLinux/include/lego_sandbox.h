// The protocol between lego-processor and lego-sandbox, the guardian of one program. Both sides are built from this
// file, so that it has no version; the magic number catches a foreign caller.
//
//   daemon -> guardian   lego_sandbox_prepare, upon which namespaces and root are built; when there is a program for them,
//                        lego_sandbox_start, once; then single bytes: LEGO_SANDBOX_GO, LEGO_SANDBOX_KILL; and
//                        lego_sandbox_start with 5 descriptors for each process that joins
//   guardian -> daemon   lego_sandbox_report: READY (listener, pidfd of the program, the terminal's master where one
//                        was asked for) or FAILED; after READY, ENDING (unless it is killed) and ENDED
//   end of stream        the daemon is gone: the guardian kills the program and ends
//
// A process that joins speaks to the daemon over a socket of its own, the fifth descriptor, in lego_sandbox_report with
// the kinds of lego_sandbox_inner; the end of the stream is the end of the program.
//
// The sockets are SOCK_SEQPACKET. Another one carries duplicates of userfault descriptors, and of the listeners of
// those that joined, to the guardian: a byte and a descriptor.
#pragma once
#include <stdint.h>

enum {
  LEGO_SANDBOX_CONTROL = 3, // the guardian's end of the socket described above
  LEGO_SANDBOX_FAULTS = 4,  // the guardian's end of the socket for userfault descriptors
  LEGO_SANDBOX_MAGIC = 0x4c424f58,
  LEGO_SANDBOX_GO = 'g',
  LEGO_SANDBOX_KILL = 'k',
  LEGO_SANDBOX_FAULT_DESCRIPTOR = 'u',
  LEGO_SANDBOX_PROCESSOR_WORDS = 16, // 1024 processors
  LEGO_SANDBOX_PAYLOAD_BYTES_MAX = 64 << 20,
};

// What a sandbox is before it has a program.
struct lego_sandbox_prepare {
  uint32_t magic;
  uint32_t reserved;
  uint64_t temporary_bytes; // size of the private /tmp; 0: the kernel's default, half the host's memory
  char root[4096];          // the directory that becomes the root, ended by a zero byte
};
_Static_assert(sizeof(struct lego_sandbox_prepare) == 4112, "the message has no padding");

// Comes with standard input, output, error and a memory file of payload_bytes, which holds in this order
//   struct sock_filter[filter_count], uint32_t groups[group_count], and texts, each ended by a zero byte:
//   working directory, arguments[argument_count], environment[environment_count];
// and with what is mounted on /proc/meminfo (open_tree(2)), if there is such a thing.
struct lego_sandbox_start {
  uint32_t magic;
  uint32_t payload_bytes;
  uint32_t uid;
  uint32_t gid;
  uint32_t group_count;
  uint32_t filter_count;
  uint32_t argument_count;
  uint32_t environment_count;
  uint32_t setup_ms;     // READY or FAILED must be reached within this time
  uint16_t has_memory;   // whether there is a descriptor for /proc/meminfo
  uint16_t has_terminal; // the three streams are a new terminal of the sandbox, and not the descriptors
  uint16_t terminal_rows;
  uint16_t terminal_columns;
  uint16_t reserved[2];
  uint64_t processors[LEGO_SANDBOX_PROCESSOR_WORDS]; // where it may run, as sched_setaffinity(2) has it; all 0: anywhere
};
_Static_assert(sizeof(struct lego_sandbox_start) == 176, "the start message has no padding");

enum lego_sandbox_report_kind {
  LEGO_SANDBOX_READY = 1,  // the program has been loaded and stands before its first instruction
  LEGO_SANDBOX_FAILED = 2, // it could not be started; nothing of it is left
  LEGO_SANDBOX_ENDED = 3,  // the program has ended, and every process of it
  LEGO_SANDBOX_ENDING = 4, // the program's first process has ended, and the kernel kills the others; ENDED follows
};

// What the first processes inside say: to the guardian, or to the daemon over the socket of a process that joined.
enum lego_sandbox_inner {
  LEGO_SANDBOX_INNER_FILTERED = 1, // the process, with the listener of its filter; the kernel attests its number
  LEGO_SANDBOX_INNER_HELD = 2,     // init: loaded, with the pidfd, and the terminal's master where one was asked for
  LEGO_SANDBOX_INNER_FAILED = 3,   // either: stage, error, subject
  LEGO_SANDBOX_INNER_ENDED = 4,    // init: status
};

// Where a start failed.
enum lego_sandbox_stage {
  LEGO_SANDBOX_STAGE_MESSAGE = 1,     // the start message makes no sense
  LEGO_SANDBOX_STAGE_NAMESPACES = 2,  // no new namespaces
  LEGO_SANDBOX_STAGE_ROOT = 3,        // the tree cannot become the root
  LEGO_SANDBOX_STAGE_DIRECTORY = 4,   // a mount point is missing in the tree and cannot be made; subject: its path
  LEGO_SANDBOX_STAGE_MOUNT = 5,       // a mount or device in the tree; subject: its path
  LEGO_SANDBOX_STAGE_PROCESS = 6,     // process, limits or rights; subject: the call
  LEGO_SANDBOX_STAGE_WORKING = 7,     // the working directory; subject: its path
  LEGO_SANDBOX_STAGE_FILTER = 8,      // the system call filter
  LEGO_SANDBOX_STAGE_EXECUTE = 9,     // the program; subject: its path
  LEGO_SANDBOX_STAGE_INTERPRETER = 10, // the program exists, its interpreter or loader does not; subject: its path
  LEGO_SANDBOX_STAGE_LOAD = 11,       // the kernel began to load the program and had to kill it; error: the signal
  LEGO_SANDBOX_STAGE_DEADLINE = 12,   // not ready in time
};

struct lego_sandbox_report {
  uint32_t kind;
  uint32_t stage;  // FAILED
  int32_t error;   // FAILED: errno
  int32_t status;  // ENDED: as wait(2) tells it; of SIGKILL when the program was killed with its namespace
  int32_t init_process;    // READY: process number of the namespace's first process, in the daemon's namespace
  int32_t program_process; // READY: process number of the program's first process, in the daemon's namespace
  char subject[232]; // FAILED: what the stage's comment says, cut to fit, ended by a zero byte
};
_Static_assert(sizeof(struct lego_sandbox_report) == 256, "the report has no padding");
