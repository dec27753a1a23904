#pragma once
#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 312
#endif
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>

// What libfuse does not hand on of the kernel's protocol (up to 3.16): whose business it is to clear set-user-ID,
// set-group-ID and capabilities of a file that changes. The kernel asks for a file's capabilities before every write
// unless the file system says that it sees to that (FUSE_HANDLE_KILLPRIV_V2).

// Whether a request begins a session in which the kernel offers to leave this to the file system.
static inline int lego_fuse_offers_clearing(const void *request) {
  const struct fuse_in_header *header = request;
  const struct fuse_init_in *body = (const void *)(header + 1);
  return header->opcode == FUSE_INIT && header->len >= sizeof *header + 16 && (body->flags & FUSE_HANDLE_KILLPRIV_V2) != 0;
}

// Accepts the offer in the answer to such a request, as libfuse is about to send it.
static inline void lego_fuse_accept_clearing(const struct iovec *parts, int count) {
  struct fuse_init_out body;
  if (count < 2 || parts[1].iov_len < offsetof(struct fuse_init_out, flags) + sizeof body.flags) return;
  if (((const struct fuse_out_header *)parts[0].iov_base)->error != 0) return;
  char *flags = (char *)parts[1].iov_base + offsetof(struct fuse_init_out, flags);
  memcpy(&body.flags, flags, sizeof body.flags);
  body.flags |= FUSE_HANDLE_KILLPRIV_V2;
  memcpy(flags, &body.flags, sizeof body.flags);
}

// Notices to the kernel, on a descriptor of /dev/fuse. libfuse's own need its session, which ends with the mount, and the
// first has other parameters from one version to the next.

// What the kernel knows of a name is not taken for granted any more. Unlike an invalidation this takes no mount away
// that lies beneath. Errors mean that it knew nothing.
static inline void lego_fuse_expire_name(int device, uint64_t parent, const char *name) {
  struct fuse_notify_inval_entry_out body = {.parent = parent, .namelen = (uint32_t)strlen(name), .flags = FUSE_EXPIRE_ONLY};
  struct fuse_out_header header = {.error = FUSE_NOTIFY_INVAL_ENTRY};
  struct iovec parts[] = {{&header, sizeof header}, {&body, sizeof body}, {(void *)(uintptr_t)name, body.namelen + 1}};
  header.len = (uint32_t)(sizeof header + sizeof body + body.namelen + 1);
  ssize_t ignored = writev(device, parts, 3);
  (void)ignored;
}

// Nor an inode's attributes. Its cached pages stay.
static inline void lego_fuse_expire_attributes(int device, uint64_t inode) {
  struct fuse_notify_inval_inode_out body = {.ino = inode, .off = -1};
  struct fuse_out_header header = {.len = sizeof header + sizeof body, .error = FUSE_NOTIFY_INVAL_INODE};
  struct iovec parts[] = {{&header, sizeof header}, {&body, sizeof body}};
  ssize_t ignored = writev(device, parts, 2);
  (void)ignored;
}

// Whether the kernel says of a write, a truncation or an open that the bits are to be cleared.
static inline int lego_fuse_clears_set_id(const void *request) {
  const struct fuse_in_header *header = request;
  const void *body = header + 1;
  switch (header->opcode) {
  case FUSE_WRITE: return (((const struct fuse_write_in *)body)->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
  case FUSE_SETATTR: return (((const struct fuse_setattr_in *)body)->valid & FATTR_KILL_SUIDGID) != 0;
  case FUSE_OPEN: return (((const struct fuse_open_in *)body)->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
  default: return 0;
  }
}
