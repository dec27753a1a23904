// mount(2), umount2(2), unshare(2): the mounts of one process.
#pragma once

// Gives the calling thread, and the threads that it starts later, mounts of their own, which vanish with the last of
// them. Nothing that is mounted here is seen outside; what is mounted outside later is seen here.
int lego_mount_unshare(void);
// mount(2); flags are MS_*. options may be NULL.
int lego_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *options);
// A directory's tree as a mount of its own that is attached nowhere (open_tree(2), OPEN_TREE_CLONE): a descriptor of
// its root. What is opened beneath has a path that begins there.
int lego_mount_clone(const char *path);
// A file or a directory as a mount of its own that is attached nowhere: a descriptor with O_PATH, to be attached by
// move_mount(2), in another process's namespace too.
int lego_mount_detached(const char *path);
// Detaches a mount at once. With abort, what is under way on a network or FUSE file system fails.
int lego_unmount(const char *target, int abort);
