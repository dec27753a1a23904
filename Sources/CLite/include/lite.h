// LITE for programs: remote memory, remote procedure calls, locks and barriers of a rack, by way of this host's node
// daemon.
//
// Link with -llite. A program joins the daemon of its host, is given opaque handles, and never sees an address, a key
// or a queue pair of the fabric. The daemon checks every right and every bound.
//
// Results: 0 (LITE_OK) or a negative enum lite_status. lite_status_text() says in a sentence what it means. On an
// error nothing was given and nothing is lost, unless the call says otherwise. Threads: every function may be called
// on any thread, with one lite_t for the whole process, except lite_leave(), which must be the last call. After
// fork(2) the child must not use its parent's lite_t; it may join by itself. Times: timeout_ms < 0 waits for ever. A
// call that ends with LITE_ETIMEDOUT was withdrawn: it will not happen later, except lite_call(), whose function may
// have run. Ends: when a program ends, however it ends, its locks pass to the next waiters, its handles are closed,
// its regions without a name are freed, its functions disappear (callers get LITE_EGONE). Named regions stay until
// lite_free().
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum lite_status {
  LITE_OK = 0,
  LITE_EINVAL = -1,       // an argument is out of range: a size of 0, an unknown right, memory that overlaps
  LITE_ENOSPACE = -2,     // the node's arena has no room for it
  LITE_ENOENT = -3,       // no such name
  LITE_EEXIST = -4,       // the name is taken
  LITE_EHANDLE = -5,      // not a handle of this program, or closed already
  LITE_EACCESS = -6,      // the handle does not have the right
  LITE_ERANGE = -7,       // beyond the end of the region
  LITE_ENODE = -8,        // the node is not known, or was lost; what was under way there may or may not have happened
  LITE_ETIMEDOUT = -9,    // not within the time given
  LITE_ETOOLARGE = -10,   // larger than the function, the buffer or LITE_MESSAGE_MAX allows
  LITE_EBUSY = -11,       // the function's queue is full, or all slots for operations under way are taken
  LITE_ENOFUNCTION = -12, // nobody on that node serves the function
  LITE_EGONE = -13,       // the region was freed, or the program at the other end has ended
  LITE_EDAEMON = -14,     // this host's daemon cannot be reached or has ended: leave, and join again
  LITE_ENOTHELD = -15,    // the lock is not held by this program
  LITE_ELIMIT = -16,      // a limit of the daemon: programs, handles, pieces
};

// The sentence for a status; never NULL.
const char *lite_status_text(int status);

// ---- Joining ----

typedef struct lite lite_t;    // A program's membership.
typedef uint64_t lite_node_t;  // One life of a node; one that restarted is another. LITE_SELF is this host's.
typedef uint64_t lite_handle_t; // A region, of this program alone. Never 0.
typedef uint64_t lite_lock_t;  // A lock, of this program alone. Never 0.

#define LITE_SELF ((lite_node_t)0)
#define LITE_NAME_MAX 63               // bytes of a name, without the 0 at its end
#define LITE_PIECES_MAX 64             // nodes that a region can be spread over
#define LITE_MESSAGE_MAX (1u << 20)    // bytes of a request or a response
#define LITE_ASYNC_MAX (1u << 20)      // bytes of an asynchronous read or write
#define LITE_CHANNELS_MAX 16

enum lite_priority { LITE_PRIORITY_NORMAL = 0, LITE_PRIORITY_HIGH = 1, LITE_PRIORITY_LOW = 2 };

// Joins the daemon that listens at socket_path (NULL: $LEGO_LITE_SOCKET, else /run/lego/lite.sock). channels: how many
// threads can be served without sharing, 1 to LITE_CHANNELS_MAX. Costs some 100 µs. LITE_EDAEMON, LITE_ELIMIT,
// LITE_EINVAL.
int lite_join(const char *socket_path, int channels, enum lite_priority priority, lite_t **lite);
// Leaves: waits for nothing, closes everything, frees lite.
void lite_leave(lite_t *lite);

// The id of this host's node.
lite_node_t lite_self(const lite_t *lite);
// Writes the ids of up to capacity nodes of the cluster, this one first; answers how many there are, or a status.
int lite_nodes(lite_t *lite, lite_node_t *nodes, int capacity);
// The node of that name (lite.toml: component.name). LITE_ENOENT.
int lite_node_named(lite_t *lite, const char *name, lite_node_t *node);

// ---- Regions (LMR) ----

enum lite_right { LITE_READ = 1, LITE_WRITE = 2, LITE_ADMIN = 4, LITE_ALL = 7 };
#define LITE_EVERYBODY ((uint32_t)-1)

// Takes zeroed memory on a node. The program becomes its master: LITE_ALL. LITE_EINVAL (0 bytes), LITE_ENOSPACE,
// LITE_ENODE.
int lite_malloc(lite_t *lite, lite_node_t node, uint64_t bytes, lite_handle_t *handle);
// The same, in equal parts on several nodes in the order given.
int lite_malloc_spread(lite_t *lite, const lite_node_t *nodes, int count, uint64_t bytes, lite_handle_t *handle);
// Gives the memory back, whoever else has it mapped: their operations answer LITE_EGONE from then on; those under way
// end first. Needs LITE_ADMIN. Closes the handle. LITE_EHANDLE (freed before), LITE_EACCESS.
int lite_free(lite_t *lite, lite_handle_t handle);
// Gives a region without a name one, by which other programs can map it; it then outlives this program. Needs
// LITE_ADMIN. LITE_EEXIST, LITE_EINVAL (no name, too long, has one).
int lite_name(lite_t *lite, lite_handle_t handle, const char *name);
// Maps the region of that name, anywhere in the cluster, for the given rights. The users (uid) of the program that
// made it have LITE_ALL; others have what was granted. bytes (may be NULL): its size. LITE_ENOENT, LITE_EACCESS.
int lite_map(lite_t *lite, const char *name, unsigned rights, lite_handle_t *handle, uint64_t *bytes);
// Closes the handle; operations under way with it end as they would have, and may be waited for. The region stays.
int lite_unmap(lite_t *lite, lite_handle_t handle);
// Grants rights to a user (or LITE_EVERYBODY), in place of those that it had. Needs LITE_ADMIN.
int lite_grant(lite_t *lite, lite_handle_t handle, uint32_t user, unsigned rights);
// Takes rights from a user (or LITE_EVERYBODY), also from handles that are mapped. Needs LITE_ADMIN.
int lite_revoke(lite_t *lite, lite_handle_t handle, uint32_t user, unsigned rights);

// ---- Data ----
// Reads need LITE_READ, all others LITE_WRITE. Errors of all: LITE_EHANDLE, LITE_EACCESS, LITE_ERANGE,
// LITE_EINVAL (count 0), LITE_EGONE, LITE_ENODE.

int lite_read(lite_t *lite, lite_handle_t handle, uint64_t offset, void *buffer, uint64_t count);
int lite_write(lite_t *lite, lite_handle_t handle, uint64_t offset, const void *buffer, uint64_t count);

// Memory, zeroed and of whole pages, that the daemon reaches, too: a read or a write of it is copied once, straight
// between it and the region, rather than twice. Worth while from some kilobytes on. A range must lie within one buffer,
// else it is copied as any memory. Up to 64 buffers a program, and no more bytes than the daemon allows (1 GiB). Gone
// with lite_leave(). LITE_EINVAL (0 bytes), LITE_ENOSPACE, LITE_ELIMIT.
int lite_buffer_alloc(lite_t *lite, uint64_t bytes, void **buffer);
// Gives it back; nothing may be under way with it. LITE_EINVAL: no buffer begins there.
int lite_buffer_free(lite_t *lite, void *buffer);

// Asynchronous forms, up to LITE_ASYNC_MAX bytes. The buffer of a read belongs to the library until the operation is
// waited for; that of a write is copied at once, unless it is of lite_buffer_alloc(): then it, too, belongs to the
// library until then. Operations are not ordered among each other. LITE_EBUSY: too many are
// under way, wait for one.
typedef struct lite_operation { uint64_t opaque[2]; } lite_operation_t;
int lite_read_async(lite_t *lite, lite_handle_t handle, uint64_t offset, void *buffer, uint64_t count,
                    lite_operation_t *operation);
int lite_write_async(lite_t *lite, lite_handle_t handle, uint64_t offset, const void *buffer, uint64_t count,
                     lite_operation_t *operation);
// The status of the operation, which is over then; exactly one call of lite_wait() ends each operation. LITE_EINVAL:
// it was waited for before.
int lite_wait(lite_t *lite, lite_operation_t operation);
// 1 when lite_wait() would not wait, else 0; LITE_EINVAL as above.
int lite_test(lite_t *lite, lite_operation_t operation);

// Executed at the nodes that hold the memory; the bytes do not pass through this host.
int lite_memset(lite_t *lite, lite_handle_t handle, uint64_t offset, int byte, uint64_t count);
// The ranges must not overlap (LITE_EINVAL).
int lite_memcpy(lite_t *lite, lite_handle_t to, uint64_t to_offset, lite_handle_t from, uint64_t from_offset,
                uint64_t count);
// The ranges may overlap.
int lite_memmove(lite_t *lite, lite_handle_t to, uint64_t to_offset, lite_handle_t from, uint64_t from_offset,
                 uint64_t count);

// On a word of 8 bytes at a multiple of 8 (else LITE_EINVAL), atomic for all programs of the cluster. former (may be
// NULL): what it held before.
int lite_fetch_add(lite_t *lite, lite_handle_t handle, uint64_t offset, uint64_t add, uint64_t *former);
// Stores desired if it holds expected; *former == expected tells that it was stored.
int lite_test_set(lite_t *lite, lite_handle_t handle, uint64_t offset, uint64_t expected, uint64_t desired,
                  uint64_t *former);

// ---- Remote procedure calls ----

// Serves a function (1 to 65535) of this node: requests of up to bytes_max (LITE_MESSAGE_MAX) wait, at most depth (1
// to 4096), until they are received. LITE_EEXIST: somebody on this node serves it.
int lite_register(lite_t *lite, uint16_t function, uint32_t bytes_max, int depth);
// Ends serving: what waits or was not replied to is answered LITE_EGONE.
int lite_unregister(lite_t *lite, uint16_t function);

typedef struct lite_request {
  uint64_t call;      // for lite_reply(); 0: a one-way message, which has no reply
  lite_node_t node;   // the caller's node
  uint64_t count;     // bytes received
} lite_request_t;

// Waits for the next request, oldest first; any number of threads may. capacity must hold the function's bytes_max
// (LITE_EINVAL). LITE_ENOFUNCTION: not registered by this program. LITE_ETIMEDOUT.
int lite_receive(lite_t *lite, uint16_t function, void *buffer, uint64_t capacity, lite_request_t *request,
                 int timeout_ms);
// Answers a request. LITE_EHANDLE: no such call, or replied to before. LITE_EGONE: the caller has ended or given up.
// LITE_ETOOLARGE: the caller takes less; the caller is told so, too.
int lite_reply(lite_t *lite, uint64_t call, const void *buffer, uint64_t count);
// Answers a request and waits for the next one of the function: in one step, and so with half the switches between
// processes, for a server that does nothing else. Of what becomes of the reply nothing is told, except LITE_EHANDLE and
// LITE_ETOOLARGE (more than LITE_MESSAGE_MAX, or than capacity): then nothing was received. reply and buffer may be the
// same.
int lite_reply_receive(lite_t *lite, uint64_t call, const void *reply, uint64_t count, uint16_t function, void *buffer,
                       uint64_t capacity, lite_request_t *request, int timeout_ms);
// Calls a function at a node and waits for the reply. received (may be NULL): its bytes. LITE_ENOFUNCTION, LITE_EBUSY,
// LITE_ETOOLARGE, LITE_EGONE (the server ended), LITE_ENODE, LITE_ETIMEDOUT.
int lite_call(lite_t *lite, lite_node_t node, uint16_t function, const void *request, uint64_t count, void *reply,
              uint64_t capacity, uint64_t *received, int timeout_ms);
// Delivers a message without a reply. LITE_OK: it is in the receiver's queue.
int lite_send(lite_t *lite, lite_node_t node, uint16_t function, const void *message, uint64_t count);
// Calls the function at several nodes (up to 32) at once and gathers the replies: the one of nodes[i] at replies + i *
// capacity, with its bytes in received[i] and its status in statuses[i]. Answers LITE_OK when all are, else the first
// error.
int lite_multicast(lite_t *lite, const lite_node_t *nodes, int nodes_count, uint16_t function, const void *request,
                   uint64_t count, void *replies, uint64_t capacity, uint64_t *received, int *statuses,
                   int timeout_ms);

// ---- Locks and barriers ----

// Opens the lock of that name, making it at this node if there is none. It goes when nobody has it open.
int lite_lock_open(lite_t *lite, const char *name, lite_lock_t *lock);
// Waits for its turn; first come, first served. 0, or 1 when the former holder ended while it held the lock.
// LITE_EINVAL: this program holds it. LITE_ENODE: the node of the lock was lost.
int lite_lock(lite_t *lite, lite_lock_t lock, int timeout_ms);
// LITE_ENOTHELD.
int lite_unlock(lite_t *lite, lite_lock_t lock);
// Closes the handle, unlocking first.
int lite_lock_close(lite_t *lite, lite_lock_t lock);
// Waits until `parties` programs or threads wait at the barrier of that name. LITE_EINVAL: others wait with another
// number. After LITE_ETIMEDOUT, or when a program ends, it no longer counts.
int lite_barrier(lite_t *lite, const char *name, unsigned parties, int timeout_ms);

#ifdef __cplusplus
}
#endif
