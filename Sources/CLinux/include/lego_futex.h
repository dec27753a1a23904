// futex(2): words shared between threads and, in shared memory, between processes.
#pragma once
#include <stdint.h>

// Waits while *word == expected, for at most timeout_ns (negative: no limit). 0 when woken, -EAGAIN when the word differs,
// -ETIMEDOUT, -EINTR. The word may be in memory shared between processes.
int lego_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns);
// Wakes at most count waiters; answers how many.
int lego_futex_wake(const uint32_t *word, int count);
