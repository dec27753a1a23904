#define _GNU_SOURCE
#include "lego_fs.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PROC_PATH_BYTES = 32 };

static int answer(long result) { return result < 0 ? -errno : (int)result; }

// The magic link of a descriptor: the way to the file behind an O_PATH descriptor for the calls that refuse such
// descriptors.
static const char *proc_path(char path[PROC_PATH_BYTES], int descriptor) {
  snprintf(path, PROC_PATH_BYTES, "/proc/self/fd/%d", descriptor);
  return path;
}

int lego_file_status(int directory, const char *name, struct lego_file_status *status) {
  struct statx x;
  int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (name[0] == 0 ? AT_EMPTY_PATH : 0);
  if (statx(directory, name, flags, STATX_BASIC_STATS | STATX_BTIME, &x) < 0) return -errno;
  *status = (struct lego_file_status){
      .inode = x.stx_ino,
      .device = (uint64_t)x.stx_dev_major << 32 | x.stx_dev_minor,
      .size = x.stx_size,
      .blocks = x.stx_blocks,
      .access_s = x.stx_atime.tv_sec,
      .modify_s = x.stx_mtime.tv_sec,
      .change_s = x.stx_ctime.tv_sec,
      .access_ns = x.stx_atime.tv_nsec,
      .modify_ns = x.stx_mtime.tv_nsec,
      .change_ns = x.stx_ctime.tv_nsec,
      .mode = x.stx_mode,
      .links = x.stx_nlink,
      .uid = x.stx_uid,
      .gid = x.stx_gid,
      .special = (uint32_t)makedev(x.stx_rdev_major, x.stx_rdev_minor),
      .block_bytes = x.stx_blksize,
      .is_mount_root = (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0,
      .birth_ns = x.stx_mask & STATX_BTIME ? (uint64_t)x.stx_btime.tv_sec * 1000000000 + x.stx_btime.tv_nsec : 0,
  };
  return 0;
}

static int open_beneath(int directory, const char *name, uint64_t flags, uint32_t mode) {
  struct open_how how = {
      .flags = flags | O_CLOEXEC | O_NOFOLLOW,
      .mode = mode,
      .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
  };
  return answer(syscall(SYS_openat2, directory, name, &how, sizeof how));
}

int lego_directory_open(const char *path) { return answer(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)); }

int lego_file_locate(int directory, const char *name) { return open_beneath(directory, name, O_PATH, 0); }

int lego_file_open(int node, int flags) {
  char path[PROC_PATH_BYTES];
  int allowed = flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW);
  return answer(open(proc_path(path, node), allowed | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
}

int lego_file_create(int directory, const char *name, int flags, uint32_t mode) {
  return open_beneath(directory, name, (uint64_t)(unsigned)flags | O_CREAT | O_EXCL | O_NOCTTY, mode & 07777);
}

int lego_file_change_mode(int node, uint32_t mode) {
  char path[PROC_PATH_BYTES];
  return answer(chmod(proc_path(path, node), mode & 07777));
}

int lego_file_clear_set_id(int node) {
  struct stat status;
  if (fstatat(node, "", &status, AT_EMPTY_PATH) < 0) return -errno;
  mode_t cleared = S_ISUID;
  // Without the group's right to execute it is a mark of another kind.
  if (status.st_mode & S_IXGRP) cleared |= S_ISGID;
  if (!S_ISREG(status.st_mode) || !(status.st_mode & cleared)) return 0;
  return lego_file_change_mode(node, status.st_mode & ~cleared);
}

int lego_file_change_owner(int node, uint32_t uid, uint32_t gid) {
  return answer(fchownat(node, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int lego_file_truncate(int node, uint64_t bytes) {
  char path[PROC_PATH_BYTES];
  if (bytes > INT64_MAX) return -EFBIG;
  return answer(truncate(proc_path(path, node), (off_t)bytes));
}

int lego_file_set_times(int node, int64_t access_s, uint32_t access_ns, int64_t modify_s, uint32_t modify_ns) {
  char path[PROC_PATH_BYTES];
  struct timespec times[2] = {{access_s, access_ns}, {modify_s, modify_ns}};
  return answer(utimensat(AT_FDCWD, proc_path(path, node), times, 0));
}

int lego_file_link(int node, int directory, const char *name) {
  return answer(linkat(node, "", directory, name, AT_EMPTY_PATH));
}

int lego_file_rename(int from, const char *name, int to, const char *new_name, uint32_t flags) {
  return answer(syscall(SYS_renameat2, from, name, to, new_name, flags));
}

ssize_t lego_file_path(int node, char *path, size_t capacity) {
  char link[PROC_PATH_BYTES];
  ssize_t count = readlink(proc_path(link, node), path, capacity);
  if (count < 0) return -errno;
  if ((size_t)count == capacity) return -ENAMETOOLONG;
  path[count] = 0;
  return count;
}

ssize_t lego_attribute_get(int node, const char *name, void *value, size_t capacity) {
  char path[PROC_PATH_BYTES];
  ssize_t result = getxattr(proc_path(path, node), name, value, capacity);
  return result < 0 ? -errno : result;
}

ssize_t lego_attribute_list(int node, void *names, size_t capacity) {
  char path[PROC_PATH_BYTES];
  ssize_t result = listxattr(proc_path(path, node), names, capacity);
  return result < 0 ? -errno : result;
}

int lego_attribute_set(int node, const char *name, const void *value, size_t count, int flags) {
  char path[PROC_PATH_BYTES];
  return answer(setxattr(proc_path(path, node), name, value, count, flags));
}

int lego_attribute_remove(int node, const char *name) {
  char path[PROC_PATH_BYTES];
  return answer(removexattr(proc_path(path, node), name));
}

int lego_file_allocate(int file, int mode, int64_t offset, int64_t count) {
  return answer(fallocate(file, mode, offset, count));
}

ssize_t lego_file_copy(int from, int64_t from_offset, int to, int64_t to_offset, size_t count) {
  off_t in = from_offset, out = to_offset;
  ssize_t result = copy_file_range(from, &in, to, &out, count, 0);
  return result < 0 ? -errno : result;
}

ssize_t lego_directory_read(int directory, void *buffer, size_t capacity) {
  long result = syscall(SYS_getdents64, directory, buffer, capacity);
  return result < 0 ? -errno : result;
}

size_t lego_directory_next(const void *buffer, size_t count, size_t offset, struct lego_directory_entry *entry) {
  if (offset + offsetof(struct dirent64, d_name) >= count) return 0;
  const struct dirent64 *raw = (const void *)((const char *)buffer + offset);
  *entry = (struct lego_directory_entry){raw->d_ino, raw->d_off, raw->d_name, raw->d_type};
  return offset + raw->d_reclen;
}

int lego_file_system_status(int node, struct lego_file_system_status *status) {
  struct statfs s;
  if (fstatfs(node, &s) < 0) return -errno;
  *status = (struct lego_file_system_status){
      .block_bytes = (uint64_t)s.f_bsize,
      .blocks = s.f_blocks,
      .blocks_free = s.f_bfree,
      .blocks_available = s.f_bavail,
      .inodes = s.f_files,
      .inodes_free = s.f_ffree,
      .name_max = (uint64_t)s.f_namelen,
  };
  return 0;
}

static int raise_all_capabilities(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0) return -errno;
  for (int i = 0; i < 2; i++) data[i].effective = data[i].permitted;
  return answer(syscall(SYS_capset, &header, data));
}

int lego_thread_create_as(uint32_t uid, uint32_t gid) {
  static __thread uint32_t current_uid, current_gid;
  if (uid == current_uid && gid == current_gid) return 0;
  // The raw calls change the calling thread only. They answer the former id and no error: the identity is read back.
  syscall(SYS_setfsgid, gid);
  syscall(SYS_setfsuid, uid);
  int raised = raise_all_capabilities();
  current_uid = (uint32_t)syscall(SYS_setfsuid, -1);
  current_gid = (uint32_t)syscall(SYS_setfsgid, -1);
  if (raised < 0) return raised;
  return current_uid == uid && current_gid == gid ? 0 : -EPERM;
}
