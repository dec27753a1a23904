// pthread_setname_np(3), sched_setaffinity(2), a process's clock, and the pause of a spinning thread.
#pragma once
#include <stdint.h>
#include <sys/types.h>

// Names the calling thread (at most 15 bytes are kept).
void lego_thread_set_name(const char *name);
pid_t lego_thread_id(void);
// Restricts thread (0: the caller) to the processors whose bits are set in mask[0..<words].
int lego_thread_set_affinity(pid_t thread, const uint64_t *mask, size_t words);
// Reads the affinity of thread (0: the caller) into mask[0..<words]; unused words are cleared.
int lego_thread_get_affinity(pid_t thread, uint64_t *mask, size_t words);
// The processor that the caller runs on.
int lego_thread_processor(void);
// Processor time that all threads of a process have taken so far, in nanoseconds; -errno where there is no such process.
int64_t lego_process_time(pid_t process);
// How far the kernel may put the calling thread's timers off, in nanoseconds (PR_SET_TIMERSLACK).
void lego_thread_set_timer_slack(unsigned long nanoseconds);

static inline void lego_spin_pause(void) { __builtin_ia32_pause(); }
// Cycles of the invariant time-stamp counter; not ordered with other instructions.
static inline uint64_t lego_cycle_count(void) { return __builtin_ia32_rdtsc(); }
