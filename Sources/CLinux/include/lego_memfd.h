// memfd_create(2): memory that can be passed to another process as a descriptor.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// A new close-on-exec memory file of the given size in bytes.
int lego_memfd_create(const char *name, uint64_t bytes);
