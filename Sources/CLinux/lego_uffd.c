#define _GNU_SOURCE
#include "lego_uffd.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFDIO_POISON
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif

static int result_of(int result) { return result < 0 ? -errno : result; }

int lego_uffd_open_device(void) { return result_of(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); }

int lego_uffd_create(int device) { return result_of(ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)); }

int lego_uffd_api(int userfault, uint64_t features, uint64_t *available) {
  struct uffdio_api api = {.api = UFFD_API, .features = features};
  int result = result_of(ioctl(userfault, UFFDIO_API, &api));
  if (available) *available = result < 0 ? 0 : api.features;
  return result;
}

int lego_uffd_register(int userfault, uint64_t start, uint64_t bytes) {
  struct uffdio_register range = {
      .range = {start, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP};
  return result_of(ioctl(userfault, UFFDIO_REGISTER, &range));
}

int lego_uffd_unregister(int userfault, uint64_t start, uint64_t bytes) {
  struct uffdio_range range = {start, bytes};
  return result_of(ioctl(userfault, UFFDIO_UNREGISTER, &range));
}

int64_t lego_uffd_copy(int userfault, uint64_t address, const void *source, uint64_t bytes, int write_protect) {
  struct uffdio_copy copy = {.dst = address,
                             .src = (uint64_t)(uintptr_t)source,
                             .len = bytes,
                             .mode = write_protect ? UFFDIO_COPY_MODE_WP : 0};
  if (ioctl(userfault, UFFDIO_COPY, &copy) == 0) return (int64_t)copy.copy;
  if (copy.copy != 0) return copy.copy;
  return -errno;
}

int lego_uffd_write_protect(int userfault, uint64_t start, uint64_t bytes, int on) {
  struct uffdio_writeprotect protect = {.range = {start, bytes}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
  return result_of(ioctl(userfault, UFFDIO_WRITEPROTECT, &protect));
}

int lego_uffd_wake(int userfault, uint64_t start, uint64_t bytes) {
  struct uffdio_range range = {start, bytes};
  return result_of(ioctl(userfault, UFFDIO_WAKE, &range));
}

int lego_uffd_poison(int userfault, uint64_t start, uint64_t bytes) {
  struct uffdio_poison poison = {.range = {start, bytes}};
  return result_of(ioctl(userfault, UFFDIO_POISON, &poison));
}

int lego_uffd_read(int userfault, struct lego_uffd_message *messages, size_t capacity) {
  struct uffd_msg raw[LEGO_UFFD_MESSAGES_MAX];
  if (capacity > LEGO_UFFD_MESSAGES_MAX) capacity = LEGO_UFFD_MESSAGES_MAX;
  ssize_t bytes = read(userfault, raw, capacity * sizeof raw[0]);
  if (bytes < 0) return -errno;
  int count = (int)((size_t)bytes / sizeof raw[0]);
  for (int i = 0; i < count; i++) {
    struct lego_uffd_message *message = &messages[i];
    *message = (struct lego_uffd_message){.kind = LEGO_UFFD_OTHER, .descriptor = -1};
    switch (raw[i].event) {
    case UFFD_EVENT_PAGEFAULT:
      message->kind = LEGO_UFFD_FAULT;
      message->address = raw[i].arg.pagefault.address;
      message->is_write = (raw[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
      message->is_write_protect = (raw[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
      message->thread = (int32_t)raw[i].arg.pagefault.feat.ptid;
      break;
    case UFFD_EVENT_FORK:
      message->kind = LEGO_UFFD_FORK;
      message->descriptor = (int32_t)raw[i].arg.fork.ufd;
      break;
    case UFFD_EVENT_REMAP:
      message->kind = LEGO_UFFD_REMAP;
      message->address = raw[i].arg.remap.from;
      message->to = raw[i].arg.remap.to;
      message->bytes = raw[i].arg.remap.len;
      break;
    default: break;
    }
  }
  return count;
}
