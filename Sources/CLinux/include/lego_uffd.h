// userfaultfd(2) and ioctl_userfaultfd(2): page faults of another process, served from here.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Features of the API hand-shake, as in <linux/userfaultfd.h>, which older distributions carry incompletely.
enum {
  LEGO_UFFD_FEATURE_WRITE_PROTECT = 1 << 0,
  LEGO_UFFD_FEATURE_EVENT_FORK = 1 << 1,
  LEGO_UFFD_FEATURE_EVENT_REMAP = 1 << 2,
  LEGO_UFFD_FEATURE_THREAD_ID = 1 << 8,
  LEGO_UFFD_FEATURE_POISON = 1 << 14,
  LEGO_UFFD_FEATURE_MOVE = 1 << 16,
};

enum lego_uffd_message_kind {
  LEGO_UFFD_OTHER = 0,
  LEGO_UFFD_FAULT = 1,
  LEGO_UFFD_FORK = 2,
  LEGO_UFFD_REMAP = 3,
};

struct lego_uffd_message {
  uint32_t kind;
  uint8_t is_write;         // fault: the access was a write
  uint8_t is_write_protect; // fault: the page is there, but write-protected
  uint16_t reserved;
  uint64_t address; // fault: where; remap: from
  uint64_t to;      // remap
  uint64_t bytes;   // remap
  int32_t thread;   // fault: who, in its own pid namespace
  int32_t descriptor; // fork: the child's userfaultfd, which the reader now owns
};

enum { LEGO_UFFD_MESSAGES_MAX = 32 };

// Opens /dev/userfaultfd, close-on-exec.
int lego_uffd_open_device(void);
// A new close-on-exec, non-blocking descriptor from the device.
int lego_uffd_create(int device);
// The hand-shake; answers 0 and the kernel's features.
int lego_uffd_api(int userfault, uint64_t features, uint64_t *available);
// Registers for missing pages and write protection.
int lego_uffd_register(int userfault, uint64_t start, uint64_t bytes);
// Gives a range up: faults there are the kernel's again, and nothing is write-protected.
int lego_uffd_unregister(int userfault, uint64_t start, uint64_t bytes);
// Fills missing pages, optionally write-protected. Answers the bytes copied (fewer when it stopped half-way), or -errno
// when none.
int64_t lego_uffd_copy(int userfault, uint64_t address, const void *source, uint64_t bytes, int write_protect);
int lego_uffd_write_protect(int userfault, uint64_t start, uint64_t bytes, int on);
int lego_uffd_wake(int userfault, uint64_t start, uint64_t bytes);
// Makes missing pages raise SIGBUS.
int lego_uffd_poison(int userfault, uint64_t start, uint64_t bytes);
// Reads up to LEGO_UFFD_MESSAGES_MAX messages; -EAGAIN when there is none.
int lego_uffd_read(int userfault, struct lego_uffd_message *messages, size_t capacity);
