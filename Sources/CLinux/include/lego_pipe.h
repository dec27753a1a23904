// pipe(7): a pipe of a given capacity, and how much is in it.
#pragma once
#include <stddef.h>

// A pipe, both ends close-on-exec: ends[0] reads, ends[1] writes.
int lego_pipe(int *ends);
// Makes a pipe that takes at least `bytes` whole pages, neither end of which blocks or is inherited. 0 or -errno.
int lego_page_pipe(int *reader, int *writer, size_t bytes);
// The bytes that can be read; or -errno.
int lego_pipe_bytes(int reader);
