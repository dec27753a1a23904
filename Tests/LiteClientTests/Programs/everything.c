// Every function of lite.h from C: prints "ok", or the line that failed. Arguments: socket, 2 nodes in the cluster.
#include <lite.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("line %d: %s\n", __LINE__, #condition); \
      exit(1); \
    } \
  } while (0)

enum { FUNCTION = 40, ROUNDS = 20, SIZE = 300000 };

static const char *path;

static void *serve(void *argument) {
  lite_t *lite = argument;
  char buffer[256];
  for (int i = 0; i < ROUNDS + 2; i++) {
    lite_request_t request;
    CHECK(lite_receive(lite, FUNCTION, buffer, sizeof buffer, &request, 20000) == LITE_OK);
    CHECK(request.node == lite_self(lite));
    if (request.call) CHECK(lite_reply(lite, request.call, buffer, request.count) == LITE_OK);
    else CHECK(request.count == 5 && memcmp(buffer, "alone", 5) == 0);
  }
  return NULL;
}

static void regions(lite_t *lite, lite_t *other, const lite_node_t *nodes) {
  lite_handle_t handle, mapped, copy;
  uint64_t bytes = 0;
  CHECK(lite_malloc(lite, LITE_SELF, 0, &handle) == LITE_EINVAL);
  CHECK(lite_malloc_spread(lite, nodes, 2, SIZE, &handle) == LITE_OK);
  CHECK(lite_name(lite, handle, "c.region") == LITE_OK);
  CHECK(lite_map(other, "c.region", LITE_ALL, &mapped, &bytes) == LITE_OK && bytes == SIZE);
  CHECK(lite_map(other, "c.nothing", LITE_READ, &copy, NULL) == LITE_ENOENT);
  unsigned char *out = malloc(SIZE), *in = malloc(SIZE);
  for (int i = 0; i < SIZE; i++) out[i] = (unsigned char)(i * 7);
  CHECK(lite_write(lite, handle, 0, out, SIZE) == LITE_OK);
  CHECK(lite_read(other, mapped, 0, in, SIZE) == LITE_OK && memcmp(in, out, SIZE) == 0);
  CHECK(lite_read(other, handle, 0, in, 8) == LITE_EHANDLE);
  CHECK(lite_read(lite, handle, SIZE - 1, in, 2) == LITE_ERANGE);
  lite_operation_t operations[4];
  for (uint64_t i = 0; i < 4; i++)
    CHECK(lite_write_async(lite, handle, i * 1000, out + 500, 1000, &operations[i]) == LITE_OK);
  for (int i = 0; i < 4; i++) CHECK(lite_wait(lite, operations[i]) == LITE_OK);
  CHECK(lite_wait(lite, operations[0]) == LITE_EINVAL);
  CHECK(lite_read_async(lite, handle, 1000, in, 1000, &operations[0]) == LITE_OK);
  while (lite_test(lite, operations[0]) == 0) usleep(100);
  CHECK(lite_wait(lite, operations[0]) == LITE_OK && memcmp(in, out + 500, 1000) == 0);
  CHECK(lite_memset(lite, handle, 10, 0x33, SIZE - 20) == LITE_OK);
  CHECK(lite_malloc(lite, nodes[1], SIZE, &copy) == LITE_OK);
  CHECK(lite_memcpy(lite, copy, 0, handle, 5, SIZE - 5) == LITE_OK);
  CHECK(lite_memmove(lite, copy, 1, copy, 0, SIZE - 1) == LITE_OK);
  CHECK(lite_memcpy(lite, copy, 1, copy, 0, SIZE - 1) == LITE_EINVAL);
  CHECK(lite_read(lite, copy, 0, in, 16) == LITE_OK && in[5] == (unsigned char)(509 * 7) && in[6] == 0x33);
  uint64_t former = 1;
  CHECK(lite_memset(lite, copy, 0, 0, 64) == LITE_OK);
  CHECK(lite_fetch_add(lite, copy, 8, 5, &former) == LITE_OK && former == 0);
  CHECK(lite_test_set(lite, copy, 8, 5, 9, &former) == LITE_OK && former == 5);
  CHECK(lite_test_set(lite, copy, 8, 5, 7, &former) == LITE_OK && former == 9);
  CHECK(lite_grant(lite, handle, LITE_EVERYBODY, LITE_READ) == LITE_OK);
  CHECK(lite_revoke(lite, handle, LITE_EVERYBODY, LITE_READ) == LITE_OK);
  CHECK(lite_grant(lite, handle, 0, 8) == LITE_EINVAL);
  CHECK(lite_free(lite, copy) == LITE_OK && lite_free(lite, copy) == LITE_EHANDLE);
  CHECK(lite_free(lite, handle) == LITE_OK);
  CHECK(lite_read(other, mapped, 0, in, 8) == LITE_EGONE);
  CHECK(lite_unmap(other, mapped) == LITE_OK && lite_unmap(other, mapped) == LITE_EHANDLE);
  free(in);
  free(out);
}

static void calls(lite_t *lite, lite_t *server) {
  lite_node_t self = lite_self(lite);
  CHECK(lite_register(server, FUNCTION, 256, 8) == LITE_OK);
  CHECK(lite_register(lite, FUNCTION, 256, 8) == LITE_EEXIST);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, serve, server) == 0);
  char reply[256];
  uint64_t received = 0;
  for (int i = 0; i < ROUNDS; i++) {
    CHECK(lite_call(lite, self, FUNCTION, "hello", 5, reply, sizeof reply, &received, 20000) == LITE_OK);
    CHECK(received == 5 && memcmp(reply, "hello", 5) == 0);
  }
  CHECK(lite_send(lite, LITE_SELF, FUNCTION, "alone", 5) == LITE_OK);
  int status = 1;
  CHECK(lite_multicast(lite, &self, 1, FUNCTION, "many", 4, reply, sizeof reply, &received, &status, 20000) == LITE_OK);
  CHECK(status == LITE_OK && received == 4 && memcmp(reply, "many", 4) == 0);
  pthread_join(thread, NULL);
  lite_request_t request;
  CHECK(lite_receive(server, FUNCTION, reply, sizeof reply, &request, 10) == LITE_ETIMEDOUT);
  CHECK(lite_unregister(server, FUNCTION) == LITE_OK);
  CHECK(lite_call(lite, self, FUNCTION, "x", 1, reply, 8, NULL, -1) == LITE_ENOFUNCTION);
}

static void *answer_in_one_step(void *argument) {
  lite_t *lite = argument;
  char buffer[256];
  lite_request_t request;
  CHECK(lite_receive(lite, FUNCTION, buffer, sizeof buffer, &request, 20000) == LITE_OK);
  CHECK(lite_reply_receive(lite, 12345, buffer, 1, FUNCTION, buffer, sizeof buffer, &request, 20000) == LITE_EHANDLE);
  CHECK(lite_reply_receive(lite, request.call, buffer, 257, FUNCTION, buffer, 256, &request, 20000) == LITE_ETOOLARGE);
  CHECK(lite_reply_receive(lite, request.call, NULL, 1, FUNCTION, buffer, 256, &request, 20000) == LITE_EINVAL);
  while (request.count != 4)
    CHECK(lite_reply_receive(lite, request.call, buffer, request.count, FUNCTION, buffer, sizeof buffer, &request, 20000) == LITE_OK);
  CHECK(lite_reply(lite, request.call, "over", 4) == LITE_OK);
  return NULL;
}

static void calls_in_one_step(lite_t *lite, lite_t *server) {
  char reply[256];
  uint64_t received = 0;
  CHECK(lite_register(server, FUNCTION, 256, 4) == LITE_OK);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, answer_in_one_step, server) == 0);
  for (int i = 0; i < ROUNDS; i++) {
    int status = lite_call(lite, LITE_SELF, FUNCTION, "request", 7, reply, sizeof reply, &received, 20000);
    CHECK(status == LITE_OK && received == 7 && memcmp(reply, "request", 7) == 0);
  }
  CHECK(lite_call(lite, LITE_SELF, FUNCTION, "stop", 4, reply, sizeof reply, &received, 20000) == LITE_OK);
  CHECK(received == 4 && memcmp(reply, "over", 4) == 0);
  pthread_join(thread, NULL);
  CHECK(lite_unregister(server, FUNCTION) == LITE_OK);
}

static void buffers(lite_t *lite, const lite_node_t *nodes) {
  void *memory = NULL;
  lite_handle_t handle;
  CHECK(lite_buffer_alloc(lite, 0, &memory) == LITE_EINVAL);
  CHECK(lite_buffer_alloc(lite, 4096, NULL) == LITE_EINVAL);
  CHECK(lite_buffer_alloc(lite, 1 << 20, &memory) == LITE_OK);
  CHECK(lite_malloc_spread(lite, nodes, 2, 1 << 20, &handle) == LITE_OK);
  unsigned char *bytes = memory;
  for (int i = 0; i < 1 << 20; i++) bytes[i] = (unsigned char)(i * 13);
  CHECK(lite_write(lite, handle, 0, bytes, 1 << 20) == LITE_OK);
  memset(bytes, 0, 1 << 20);
  CHECK(lite_read(lite, handle, 0, bytes, 1 << 20) == LITE_OK);
  for (int i = 0; i < 1 << 20; i++) CHECK(bytes[i] == (unsigned char)(i * 13));
  CHECK(lite_read(lite, handle, 1 << 20, bytes, 1) == LITE_ERANGE);
  CHECK(lite_free(lite, handle) == LITE_OK);
  CHECK(lite_buffer_free(lite, bytes + 4096) == LITE_EINVAL);
  CHECK(lite_buffer_free(lite, memory) == LITE_OK);
  CHECK(lite_buffer_free(lite, memory) == LITE_EINVAL);
}

static void *wait_at_barrier(void *argument) {
  CHECK(lite_barrier(argument, "c.barrier", 2, 20000) == LITE_OK);
  return NULL;
}

static void locks(lite_t *lite, lite_t *other) {
  lite_lock_t mine, theirs;
  CHECK(lite_lock_open(lite, "c.lock", &mine) == LITE_OK && lite_lock_open(other, "c.lock", &theirs) == LITE_OK);
  CHECK(lite_lock(lite, mine, -1) == 0);
  CHECK(lite_lock(other, theirs, 10) == LITE_ETIMEDOUT);
  CHECK(lite_unlock(other, theirs) == LITE_ENOTHELD);
  CHECK(lite_unlock(lite, mine) == LITE_OK);
  CHECK(lite_lock(other, theirs, -1) == 0);
  CHECK(lite_lock_close(other, theirs) == LITE_OK && lite_lock_close(lite, mine) == LITE_OK);
  CHECK(lite_unlock(lite, mine) == LITE_EHANDLE);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, wait_at_barrier, other) == 0);
  CHECK(lite_barrier(lite, "c.barrier", 2, 20000) == LITE_OK);
  pthread_join(thread, NULL);
}

int main(int count, char **arguments) {
  alarm(60);
  CHECK(count == 2);
  path = arguments[1];
  lite_t *lite = NULL, *other = NULL;
  CHECK(lite_join("/nowhere", 1, LITE_PRIORITY_NORMAL, &lite) == LITE_EDAEMON);
  CHECK(lite_join(path, 0, LITE_PRIORITY_NORMAL, &lite) == LITE_EINVAL);
  CHECK(lite_join(path, 17, LITE_PRIORITY_NORMAL, &lite) == LITE_EINVAL);
  CHECK(lite_join(path, 1, LITE_PRIORITY_NORMAL, NULL) == LITE_EINVAL);
  CHECK(lite_join(path, 2, LITE_PRIORITY_HIGH, &lite) == LITE_OK);
  CHECK(lite_join(path, 1, LITE_PRIORITY_LOW, &other) == LITE_OK);
  lite_node_t nodes[4], named = 0;
  CHECK(lite_nodes(lite, nodes, 4) == 2 && nodes[0] == lite_self(lite));
  CHECK(lite_nodes(lite, NULL, 0) == 2);
  CHECK(lite_node_named(lite, "node1", &named) == LITE_OK && named == nodes[1]);
  CHECK(lite_node_named(lite, "node9", &named) == LITE_ENOENT);
  regions(lite, other, nodes);
  buffers(lite, nodes);
  calls(lite, other);
  calls_in_one_step(lite, other);
  locks(lite, other);
  CHECK(strlen(lite_status_text(LITE_EGONE)) > 0 && lite_read(NULL, 1, 0, nodes, 8) == LITE_EINVAL);
  lite_leave(other);
  lite_leave(lite);
  puts("ok");
  return 0;
}
