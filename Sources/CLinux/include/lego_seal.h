// fcntl(2) seals on memory files: what a descriptor that is passed on can no longer do.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// A new close-on-exec memory file whose size can never change, so that no holder can make another's mapping raise SIGBUS.
int lego_memfd_create_fixed(const char *name, uint64_t bytes);
// Refuses every later writable mapping and write; mappings that exist keep their rights.
int lego_memfd_seal_future_writes(int descriptor);
// 1 when the size of the memory file can never shrink, 0 when it can or the descriptor is no memory file.
int lego_memfd_is_fixed(int descriptor);
// As lego_memfd_create_fixed, of huge pages of 2 MiB (MFD_HUGETLB); bytes is a multiple of that.
int lego_memfd_create_huge(const char *name, uint64_t bytes);
