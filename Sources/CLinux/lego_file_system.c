#define _GNU_SOURCE
#include "lego_file_system.h"
#include <errno.h>
#include <sys/vfs.h>

int lego_file_system(int descriptor, uint64_t *magic, uint64_t *flags) {
  struct statfs system;
  if (fstatfs(descriptor, &system) < 0) return -errno;
  *magic = (uint64_t)system.f_type;
  *flags = (uint64_t)system.f_flags;
  return 0;
}
