#define _GNU_SOURCE
#include "lego_socket.h"
#include "sandbox.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Hands out consecutive pieces of the payload, and remembers when one did not fit.
struct cursor {
  char *next;
  size_t left;
  int is_short;
};

static void *take(struct cursor *cursor, size_t count) {
  if (count > cursor->left) {
    cursor->is_short = 1;
    return NULL;
  }
  void *piece = cursor->next;
  cursor->next += count;
  cursor->left -= count;
  return piece;
}

static char *take_text(struct cursor *cursor) {
  char *end = memchr(cursor->next, 0, cursor->left);
  if (!end) {
    cursor->is_short = 1;
    return NULL;
  }
  return take(cursor, (size_t)(end - cursor->next) + 1);
}

static char **take_texts(struct cursor *cursor, size_t count) {
  // Each text takes at least its zero byte: a count that cannot be right reserves nothing.
  char **texts = count <= cursor->left ? calloc(count + 1, sizeof *texts) : NULL;
  if (!texts) {
    cursor->is_short = 1;
    return NULL;
  }
  for (size_t i = 0; i < count; i++) texts[i] = take_text(cursor);
  return texts;
}

static int parse_payload(struct start *start, char *payload) {
  const struct lego_sandbox_start *header = &start->header;
  struct cursor cursor = {.next = payload, .left = header->payload_bytes};
  start->filter = take(&cursor, header->filter_count * sizeof *start->filter);
  start->groups = take(&cursor, header->group_count * sizeof *start->groups);
  start->directory = take_text(&cursor);
  start->arguments = take_texts(&cursor, header->argument_count);
  start->environment = take_texts(&cursor, header->environment_count);
  if (cursor.is_short || cursor.left > 0) return -EPROTO;
  if (header->argument_count == 0 || header->filter_count == 0 || header->filter_count > BPF_MAXINSNS) return -EINVAL;
  return start->directory[0] == '/' ? 0 : -EINVAL;
}

static char *read_payload(int file, size_t count) {
  char *payload = malloc(count + 1);
  if (!payload) return NULL;
  for (size_t done = 0; done < count;) {
    ssize_t part = pread(file, payload + done, count - done, (off_t)done);
    if (part <= 0) {
      free(payload);
      return NULL;
    }
    done += (size_t)part;
  }
  return payload;
}

int start_receive_preparation(int control, int deadline_ms, struct lego_sandbox_prepare *preparation) {
  struct pollfd wait = {.fd = control, .events = POLLIN};
  int ready = poll(&wait, 1, deadline_ms);
  if (ready <= 0) return ready == 0 ? -ETIMEDOUT : -errno;
  ssize_t count = recv(control, preparation, sizeof *preparation, 0);
  if (count <= 0) return count == 0 ? -ECONNRESET : -errno;
  if (count != sizeof *preparation || preparation->magic != LEGO_SANDBOX_MAGIC) return -EPROTO;
  if (preparation->root[0] != '/' || !memchr(preparation->root, 0, sizeof preparation->root)) return -EINVAL;
  return 0;
}

int start_receive(int inner, struct start *start) {
  int descriptors[5];
  size_t descriptor_count = 0;
  ssize_t count;
  do
    count = lego_receive_descriptors(inner, &start->header, sizeof start->header, descriptors, 5, &descriptor_count, NULL, 0);
  while (count == -EINTR);
  if (count < 0) return (int)count;
  if (count == 0) return -ECONNRESET;
  const struct lego_sandbox_start *header = &start->header;
  if (count != sizeof *header || header->magic != LEGO_SANDBOX_MAGIC) return -EPROTO;
  if (descriptor_count != (header->has_memory ? 5 : 4)) return -EPROTO;
  memcpy(start->streams, descriptors, sizeof start->streams);
  start->memory = header->has_memory ? descriptors[4] : -1;
  return start_parse(descriptors[3], start);
}

int start_parse(int file, struct start *start) {
  const struct lego_sandbox_start *header = &start->header;
  if (header->payload_bytes > LEGO_SANDBOX_PAYLOAD_BYTES_MAX) return -EMSGSIZE;
  start->terminal = -1;
  char *payload = read_payload(file, header->payload_bytes);
  close(file);
  return payload ? parse_payload(start, payload) : -EIO;
}

void start_close_streams(const struct start *start) {
  for (int i = 0; i < 3; i++) close(start->streams[i]);
}
