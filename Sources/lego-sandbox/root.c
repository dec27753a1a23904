// What the program sees: the storage component's tree with file systems of this namespace on /proc, /dev, /sys and
// /tmp. All of it is mounted after the old root is gone, so that no link in the tree can lead a mount outside.
#define _GNU_SOURCE
#include "sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// Any directory that every host has; the tree lies on it for the blink between its attachment and pivot_root.
#define STAGING "/proc"

struct file_system {
  const char *path;
  const char *type;
  unsigned long flags;
  const char *data;
  int is_optional; // a tree or a kernel without it is no error
};

static const struct file_system file_systems[] = {
    {"/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0},
    {"/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m", 0},
    {"/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5", 0},
    {"/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", 0},
    {"/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 1},
    {"/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 1},
};

static const struct {
  const char *path;
  unsigned major, minor;
} devices[] = {
    {"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

static const struct {
  const char *path, *target;
} links[] = {
    {"/dev/fd", "/proc/self/fd"},       {"/dev/stdin", "/proc/self/fd/0"}, {"/dev/stdout", "/proc/self/fd/1"},
    {"/dev/stderr", "/proc/self/fd/2"}, {"/dev/ptmx", "pts/ptmx"},
};

// Parts of /proc that change the host; a program of user 0 could write them without any capability.
static const char *const host_controls[] = {"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"};

static int fail(struct failure *failure, enum lego_sandbox_stage stage, const char *subject) {
  *failure = (struct failure){.stage = stage, .error = errno, .subject = subject};
  return -1;
}

// Makes the tree the root and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
static int enter_tree(const char *root) {
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return -1;
  int tree = open_tree(AT_FDCWD, root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) return -1;
  if (move_mount(tree, "", AT_FDCWD, STAGING, MOVE_MOUNT_F_EMPTY_PATH) < 0) return -1;
  if (fchdir(tree) < 0 || syscall(SYS_pivot_root, ".", ".") < 0) return -1;
  close(tree);
  if (umount2(".", MNT_DETACH) < 0) return -1;
  return chdir("/");
}

// Between the two steps of the root: the proc(5) that lies below /tmp.
static int whole_proc = -1;

static int mount_there(const struct file_system *what) {
  return mount(what->type, what->path, what->type, what->flags, what->data);
}

// Mounts a file system, and makes its directory in the tree when it is missing. Seldom is, and mkdir(2) of a name that
// is there asks the storage component, where mount(2) finds it in the kernel's cache.
static int mount_one(const struct file_system *what, struct failure *failure) {
  int result = mount_there(what);
  if (result < 0 && errno == ENOENT) {
    if (mkdir(what->path, 0755) < 0 && errno != EEXIST) {
      if (what->is_optional) return 0;
      return fail(failure, LEGO_SANDBOX_STAGE_DIRECTORY, what->path);
    }
    result = mount_there(what);
  }
  if (result == 0 || what->is_optional) return 0;
  return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, what->path);
}

static int mount_temporary(uint64_t bytes, struct failure *failure) {
  char data[64] = "mode=1777";
  if (bytes > 0) snprintf(data, sizeof data, "mode=1777,size=%llu", (unsigned long long)bytes);
  struct file_system temporary = {"/tmp", "tmpfs", MS_NOSUID | MS_NODEV, data, 0};
  return mount_one(&temporary, failure);
}

// Linux lets a program mount proc(5) in a user namespace of its own, as container tools do, only where it sees a whole
// one already, and /proc has a file mounted over it. A second one lies out of everybody's reach, below what becomes
// /tmp. Answers a descriptor of it.
static int mount_whole_proc(struct failure *failure) {
  static const struct file_system hidden[] = {
      {"/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=4k", 0},
      {"/tmp/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, 0},
  };
  for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
    if (mount_one(&hidden[i], failure) < 0) return -1;
  int descriptor = open(hidden[1].path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return descriptor < 0 ? fail(failure, LEGO_SANDBOX_STAGE_MOUNT, hidden[1].path) : descriptor;
}

// From user 0 parts of /proc are hidden on purpose: there it goes again.
static int unmount_whole_proc(struct failure *failure) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", whole_proc);
  return umount2(path, MNT_DETACH) < 0 ? fail(failure, LEGO_SANDBOX_STAGE_MOUNT, path) : 0;
}

static int make_devices(struct failure *failure) {
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
    if (mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) < 0)
      return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, devices[i].path);
  for (size_t i = 0; i < sizeof links / sizeof *links; i++)
    if (symlink(links[i].target, links[i].path) < 0) return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, links[i].path);
  return 0;
}

static int protect_host(struct failure *failure) {
  for (size_t i = 0; i < sizeof host_controls / sizeof *host_controls; i++) {
    const char *path = host_controls[i];
    if (mount(path, path, NULL, MS_BIND, NULL) < 0) {
      if (errno == ENOENT) continue;
      return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, path);
    }
    if (mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
      return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, path);
  }
  return 0;
}

int root_build(const struct lego_sandbox_prepare *preparation, struct failure *failure) {
  umask(0);
  if (enter_tree(preparation->root) < 0) return fail(failure, LEGO_SANDBOX_STAGE_ROOT, preparation->root);
  for (size_t i = 0; i < sizeof file_systems / sizeof *file_systems; i++)
    if (mount_one(&file_systems[i], failure) < 0) return -1;
  whole_proc = mount_whole_proc(failure);
  if (whole_proc < 0) return -1;
  if (mount_temporary(preparation->temporary_bytes, failure) < 0) return -1;
  return make_devices(failure);
}

int root_finish(const struct start *start, struct failure *failure) {
  if (start->memory >= 0) {
    if (move_mount(start->memory, "", AT_FDCWD, "/proc/meminfo", MOVE_MOUNT_F_EMPTY_PATH) < 0)
      return fail(failure, LEGO_SANDBOX_STAGE_MOUNT, "/proc/meminfo");
    close(start->memory);
  }
  int result = start->header.uid == 0 ? unmount_whole_proc(failure) : 0;
  close(whole_proc);
  if (result < 0) return -1;
  return start->header.uid == 0 ? protect_host(failure) : 0;
}
