// The memory that a program and its node's daemon share: one file of fixed size per channel, made by the daemon.
//
//   0      struct lite_channel_head            what either side tells the other while idle
//   4096   ring of LITE_RING submissions       written by the program, in order
//   +      LITE_SLOTS completions              one per operation under way, written by the daemon
//   +      LITE_SLOTS cells of LITE_CELL       data of small operations
//   +      LITE_BLOCKS blocks of LITE_BLOCK    data of large ones
//
// The daemon believes nothing that it reads here: it copies a submission once and checks the copy.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
  LITE_CHANNEL_VERSION = 2,
  LITE_SLOTS = 64,
  LITE_RING = 128, // one submission per slot, and one cancellation each
  LITE_CELL = 4096,
  LITE_BLOCKS = 32,
  LITE_BLOCK = 128 << 10,
  LITE_RING_OFFSET = 4096,
  LITE_COMPLETION_OFFSET = LITE_RING_OFFSET + LITE_RING * 64,
  LITE_CELL_OFFSET = LITE_COMPLETION_OFFSET + LITE_SLOTS * 64,
  LITE_BLOCK_OFFSET = LITE_CELL_OFFSET + LITE_SLOTS * LITE_CELL,
  LITE_CHANNEL_BYTES = LITE_BLOCK_OFFSET + LITE_BLOCKS * LITE_BLOCK,
  // Buffers of a program: memory files that the daemon makes and both map. The data of a read or a write lies in the
  // channel, or in the buffer whose number is in the upper bits of the place.
  LITE_BUFFERS = 64,
  LITE_BUFFER_SHIFT = 48,
};

struct lite_channel_head {
  // 1: the daemon does not look at this ring; a byte on the socket makes it look. Written by the daemon.
  uint32_t asleep;
  // 1: the program had better sleep at once than spin: others have priority. Written by the daemon.
  uint32_t yields;
  uint32_t unused[14];
  // Submissions that the daemon has taken, in all: how much room the ring has. Written by the daemon, every time, and
  // so on a cache line of its own.
  uint32_t taken;
};

struct lite_submission {
  uint32_t sequence; // the number of this submission from 1, stored last: what the daemon waits for
  uint8_t opcode;    // enum lite_opcode
  uint8_t flags;
  uint16_t slot;
  uint64_t handle;   // a handle, a function or a call
  uint64_t offset;
  uint64_t count;
  uint64_t data;     // where in the channel the bytes are, or go; see LITE_BUFFER_SHIFT
  uint64_t operand;
  uint64_t operand2;
  uint64_t node;
};
_Static_assert(sizeof(struct lite_submission) == 64, "a cache line");

// Copies a submission, reading every word once: the program may change it meanwhile.
static inline void lite_submission_copy(struct lite_submission *to, const struct lite_submission *from) {
  uint64_t *words = (uint64_t *)to;
  for (int i = 0; i < 8; i++) words[i] = __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED);
}

struct lite_completion {
  // The number of the submission that is over. Written by the daemon, last.
  uint32_t state;
  int32_t status; // enum lite_status
  uint64_t value;
  uint64_t count;
  uint64_t node;
  uint64_t unused[3];
  uint32_t unused2;
  // 1: the program sleeps on state (futex(2)), or is about to. Written by the program, which looks at state once more
  // before it sleeps; the daemon looks here after it has written state.
  uint32_t sleeps;
};
_Static_assert(sizeof(struct lite_completion) == 64, "a cache line");

// Bits of lite_submission.flags.
enum {
  // A write of 8 bytes has them in operand2, a read of 8 bytes answers them in value, rather than in data.
  LITE_FLAG_WORD = 1,
};

// What a submission asks for. Unless it says otherwise: handle, offset and count name bytes of a region.
enum lite_opcode {
  LITE_OP_NONE = 0,
  LITE_OP_READ = 1,        // to data; operand: bytes from offset on that must be inside the region, at least count
  LITE_OP_WRITE = 2,       // from data; operand as above
  LITE_OP_FETCH_ADD = 3,   // operand: addend; value: former
  LITE_OP_COMPARE_SWAP = 4, // operand: expected, operand2: desired; value: former
  LITE_OP_SET = 5,         // operand: byte
  LITE_OP_COPY = 6,        // operand: source handle, operand2: source offset
  LITE_OP_MOVE = 7,        // the same, ranges may overlap
  LITE_OP_ALLOCATE = 8,    // operand: bytes; data: node numbers, count of them; value: handle
  LITE_OP_FREE = 9,
  LITE_OP_NAME = 10,       // data, count: the name
  LITE_OP_MAP = 11,        // data, count: the name; operand: rights; value: handle; count: bytes
  LITE_OP_UNMAP = 12,
  LITE_OP_GRANT = 13,      // operand: user; operand2: rights
  LITE_OP_REVOKE = 14,     // operand: user; operand2: rights
  LITE_OP_NODES = 15,      // data, count: room for node numbers; value: how many there are
  LITE_OP_NODE_NAMED = 16, // data, count: the name; value: node
  LITE_OP_REGISTER = 17,   // handle: function; operand: bytes_max; operand2: depth
  LITE_OP_UNREGISTER = 18, // handle: function
  LITE_OP_RECEIVE = 19,    // handle: function; data, count: room; value: call; node; count: bytes
  LITE_OP_REPLY = 20,      // handle: call; data, count: reply
  LITE_OP_CALL = 21,       // node; handle: function; data, count: request; operand, operand2: reply's place, room
  LITE_OP_SEND = 22,       // node; handle: function; data, count: message
  LITE_OP_LOCK_OPEN = 23,  // data, count: the name; value: handle
  LITE_OP_LOCK = 24,       // handle; value: 1 when the former holder ended
  LITE_OP_UNLOCK = 25,     // handle
  LITE_OP_LOCK_CLOSE = 26, // handle
  LITE_OP_BARRIER = 27,    // data, count: the name; operand: parties
  LITE_OP_CANCEL = 28,     // slot, operand: what ends with LITE_ETIMEDOUT if it still waits; no completion
  LITE_OP_BUFFER_MAKE = 29, // operand: bytes; value: number. Its descriptor has come over the socket before that
  LITE_OP_BUFFER_DROP = 30, // operand: number
  LITE_OP_REPLY_RECEIVE = 31, // as RECEIVE; operand: call; operand2: bytes of the reply, which lie at data
};

// Over the socket (SOCK_SEQPACKET), once each way; then single bytes from the program, each of which makes the daemon
// look, and a lite_buffer_notice with a descriptor from the daemon for each buffer.
struct lite_hello {
  uint32_t magic; // LITE_MAGIC
  uint16_t version;
  uint8_t channels;
  uint8_t priority; // enum lite_priority
};
struct lite_welcome {
  uint32_t magic;
  uint16_t version;
  uint16_t channels; // as many descriptors come with it
  int32_t status;
  uint32_t unused;
  uint64_t node;
};
struct lite_buffer_notice {
  uint64_t number;
  uint64_t bytes; // of the file: whole pages
};
#define LITE_MAGIC 0x4c495445u
