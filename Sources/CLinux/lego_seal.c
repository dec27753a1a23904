#define _GNU_SOURCE
#include "lego_seal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

static int create(const char *name, uint64_t bytes, unsigned flags) {
  int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
  if (descriptor < 0) return -errno;
  if (ftruncate(descriptor, (off_t)bytes) < 0 || fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
    int error = errno;
    close(descriptor);
    return -error;
  }
  return descriptor;
}

int lego_memfd_create_fixed(const char *name, uint64_t bytes) { return create(name, bytes, 0); }

int lego_memfd_create_huge(const char *name, uint64_t bytes) { return create(name, bytes, MFD_HUGETLB | MFD_HUGE_2MB); }

int lego_memfd_seal_future_writes(int descriptor) {
  return fcntl(descriptor, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 ? -errno : 0;
}

int lego_memfd_is_fixed(int descriptor) {
  int seals = fcntl(descriptor, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK);
}
