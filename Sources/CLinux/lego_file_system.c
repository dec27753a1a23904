#define _GNU_SOURCE
#include "lego_file_system.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000u
#endif

int lego_file_system(int descriptor, uint64_t *magic, uint64_t *flags) {
  struct statfs system;
  if (fstatfs(descriptor, &system) < 0) return -errno;
  *magic = (uint64_t)system.f_type;
  *flags = (uint64_t)system.f_flags;
  return 0;
}

int lego_file_mount(int descriptor, uint64_t *mount) {
  struct statx status = {0};
  if (syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID_UNIQUE, &status) < 0)
    return -errno;
  if (!(status.stx_mask & STATX_MNT_ID_UNIQUE)) return -ENODATA;
  *mount = status.stx_mnt_id;
  return 0;
}
