// Which kind of file system a file lies on.
#pragma once
#include <stdint.h>

// The file system's magic number and its mount flags (ST_NOEXEC is 8), by fstatfs(2). A remote one is asked.
int lego_file_system(int descriptor, uint64_t *magic, uint64_t *flags);
// The number of the mount, which no later one gets (statx(2), STATX_MNT_ID_UNIQUE). Nobody is asked. 0 or -errno; -ENODATA
// from a kernel that does not say it.
int lego_file_mount(int descriptor, uint64_t *mount);
