// Atomic access to words in memory that is shared with another process, where the standard library's atomics cannot live.
#pragma once
#include <stdbool.h>
#include <stdint.h>

static inline uint32_t lego_atomic_load_u32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint64_t lego_atomic_load_u64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void lego_atomic_store_u32(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline void lego_atomic_store_u64(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// The following are sequentially consistent; they answer the former value.
static inline uint32_t lego_atomic_exchange_u32(uint32_t *word, uint32_t value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
static inline uint64_t lego_atomic_exchange_u64(uint64_t *word, uint64_t value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
static inline uint32_t lego_atomic_add_u32(uint32_t *word, uint32_t value) { return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST); }
static inline uint64_t lego_atomic_add_u64(uint64_t *word, uint64_t value) { return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST); }
// Answers whether the exchange took place; the former value is left in *expected.
static inline bool lego_atomic_compare_exchange_u32(uint32_t *word, uint32_t *expected, uint32_t desired) {
  return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline bool lego_atomic_compare_exchange_u64(uint64_t *word, uint64_t *expected, uint64_t desired) {
  return __atomic_compare_exchange_n(word, expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
// Statistics that any thread may read. `count` is for a word that one thread at a time writes; `tally` for any number.
static inline uint64_t lego_atomic_peek_u64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void lego_atomic_count_u64(uint64_t *word, uint64_t value) {
  __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + value, __ATOMIC_RELAXED);
}
static inline void lego_atomic_tally_u64(uint64_t *word, uint64_t value) { __atomic_fetch_add(word, value, __ATOMIC_RELAXED); }

// Orders every earlier load and store before every later one (the store-load barrier of a Dekker hand-shake). A locked
// instruction on the stack does, and takes a fraction of what mfence takes, which clang makes of the builtin.
static inline void lego_atomic_fence(void) {
#if defined(__x86_64__)
  __asm__ volatile("lock; orl $0, (%%rsp)" ::: "memory", "cc");
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// Tells the processor that the line will soon be written. Any address, also one that is not mapped; waits for nothing.
static inline void lego_prefetch(const void *address) { __builtin_prefetch(address, 1); }
