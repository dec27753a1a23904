// Files by descriptor: what a file server needs of statx(2), openat2(2), renameat2(2), getdents64(2), xattr(7) and
// credentials(7) beyond the C library's Swift module. Every name is one component of a path; "" is the descriptor
// itself.
#pragma once
#include <stdint.h>
#include <sys/types.h>

// What stat(2) tells, in fixed widths.
struct lego_file_status {
  uint64_t inode;
  uint64_t device; // of the file system: major << 32 | minor
  uint64_t size;   // bytes
  uint64_t blocks; // of 512 bytes
  int64_t access_s, modify_s, change_s;
  uint32_t access_ns, modify_ns, change_ns;
  uint32_t mode;
  uint32_t links;
  uint32_t uid, gid;
  uint32_t special; // the device that a device node stands for, as mknod(2) takes it
  uint32_t block_bytes;
  uint32_t is_mount_root; // another mount begins here
  uint64_t birth_ns; // when the inode was made, since 1970; 0 when the file system does not tell
};

// One entry of a directory. Valid until the buffer that it was read from is overwritten.
struct lego_directory_entry {
  uint64_t inode;
  int64_t next; // the position after this entry, for lseek(2)
  const char *name;
  uint8_t type; // DT_*
};

struct lego_file_system_status {
  uint64_t block_bytes, blocks, blocks_free, blocks_available, inodes, inodes_free, name_max;
};

// Never follows a symbolic link, never mounts an automount.
int lego_file_status(int directory, const char *name, struct lego_file_status *status);
// An O_PATH descriptor of a directory by its path, links followed.
int lego_directory_open(const char *path);
// An O_PATH descriptor of the entry itself, be it a symbolic link; never leaves the directory by link or by "..".
int lego_file_locate(int directory, const char *name);
// Opens the file behind an O_PATH descriptor. Needs /proc.
int lego_file_open(int node, int flags);
// openat2(2) with O_CREAT | O_EXCL and the other flags given.
int lego_file_create(int directory, const char *name, int flags, uint32_t mode);

int lego_file_change_mode(int node, uint32_t mode);
// Takes set-user-ID, and set-group-ID of what a group may execute, from a regular file, as the kernel does when somebody
// without CAP_FSETID writes to it.
int lego_file_clear_set_id(int node);
// -1 leaves an id as it is.
int lego_file_change_owner(int node, uint32_t uid, uint32_t gid);
int lego_file_truncate(int node, uint64_t bytes);
// Nanoseconds may be UTIME_NOW or UTIME_OMIT.
int lego_file_set_times(int node, int64_t access_s, uint32_t access_ns, int64_t modify_s, uint32_t modify_ns);
int lego_file_link(int node, int directory, const char *name);
int lego_file_rename(int from, const char *name, int to, const char *new_name, uint32_t flags);

// The path of what is open (readlink(2) of /proc/self/fd), with its end; its length.
ssize_t lego_file_path(int node, char *path, size_t capacity);

ssize_t lego_attribute_get(int node, const char *name, void *value, size_t capacity);
ssize_t lego_attribute_list(int node, void *names, size_t capacity);
int lego_attribute_set(int node, const char *name, const void *value, size_t count, int flags);
int lego_attribute_remove(int node, const char *name);

int lego_file_allocate(int file, int mode, int64_t offset, int64_t count);
ssize_t lego_file_copy(int from, int64_t from_offset, int to, int64_t to_offset, size_t count);

// getdents64(2). Answers the bytes read, 0 at the end.
ssize_t lego_directory_read(int directory, void *buffer, size_t capacity);
// Decodes the entry at an offset of what was read; answers the offset of the next one, or 0 when there is none.
size_t lego_directory_next(const void *buffer, size_t count, size_t offset, struct lego_directory_entry *entry);

int lego_file_system_status(int node, struct lego_file_system_status *status);

// The owner of what the calling thread creates from now on (setfsuid(2)), with all capabilities kept, so that the
// permissions were checked elsewhere. A thread that asks for the identity that it has pays nothing. -EPERM when the
// thread is not privileged.
int lego_thread_create_as(uint32_t uid, uint32_t gid);
