#define _GNU_SOURCE
#include "lego_mount.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <unistd.h>

int lego_mount_unshare(void) {
  if (unshare(CLONE_NEWNS) < 0) return -errno;
  return mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ? -errno : 0;
}

int lego_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *options) {
  return mount(source, target, type, flags, options) < 0 ? -errno : 0;
}

int lego_mount_clone(const char *path) {
  int tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) return -errno;
  // Not O_PATH, which seccomp does not hand over (SECCOMP_IOCTL_NOTIF_ADDFD). It holds the mount by itself.
  int root = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int result = root < 0 ? -errno : root;
  close(tree);
  return result;
}

int lego_mount_detached(const char *path) {
  int tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return tree < 0 ? -errno : tree;
}

int lego_unmount(const char *target, int abort) {
  return umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW | (abort ? MNT_FORCE : 0)) < 0 ? -errno : 0;
}
