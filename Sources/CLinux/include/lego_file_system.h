// fstatfs(2): which kind of file system a file lies on.
#pragma once
#include <stdint.h>

// The file system's magic number and its mount flags (ST_NOEXEC is 8).
int lego_file_system(int descriptor, uint64_t *magic, uint64_t *flags);
