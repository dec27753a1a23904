// memfd_create(2): memory that can be passed to another process as a descriptor.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// A new close-on-exec memory file of the given size in bytes.
int lego_memfd_create(const char *name, uint64_t bytes);

// Has the kernel join the small pages of a range into huge ones (MADV_COLLAPSE), whatever the host's settings for shared
// memory say, unless they say `deny`. Answers 0 or -errno.
int lego_memory_collapse(void *start, uint64_t bytes);
