#define _GNU_SOURCE
#include "lego_memfd.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

int lego_memfd_create(const char *name, uint64_t bytes) {
  int descriptor = memfd_create(name, MFD_CLOEXEC);
  if (descriptor < 0) return -errno;
  if (ftruncate(descriptor, (off_t)bytes) < 0) {
    int error = errno;
    close(descriptor);
    return -error;
  }
  return descriptor;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int lego_memory_collapse(void *start, uint64_t bytes) { return madvise(start, bytes, MADV_COLLAPSE) < 0 ? -errno : 0; }
