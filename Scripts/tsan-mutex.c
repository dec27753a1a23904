// Preloaded into tests under ThreadSanitizer. A contended Swift Mutex is taken and given back inside the standard library,
// which is not instrumented: without this, everything that it protects looks like a race. The uncontended path is
// compiled into its user, and is seen.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>

#define SLOW_LOCK "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define SLOW_UNLOCK "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"
typedef __attribute__((swiftcall)) void slow_lock(uint32_t thread, __attribute__((swift_context)) void *handle);
typedef __attribute__((swiftcall)) void slow_unlock(__attribute__((swift_context)) void *handle);

extern void __tsan_acquire(void *address) __attribute__((weak));
extern void __tsan_release(void *address) __attribute__((weak));

__attribute__((swiftcall, visibility("default"))) void lock_slow(uint32_t thread,
                                                                 __attribute__((swift_context)) void *handle)
    __asm__(SLOW_LOCK);

__attribute__((swiftcall)) void lock_slow(uint32_t thread, __attribute__((swift_context)) void *handle) {
  static slow_lock *real;
  if (!real) real = (slow_lock *)dlsym(RTLD_NEXT, SLOW_LOCK);
  real(thread, handle);
  if (__tsan_acquire) __tsan_acquire(handle);
}

__attribute__((swiftcall, visibility("default"))) void unlock_slow(__attribute__((swift_context)) void *handle)
    __asm__(SLOW_UNLOCK);

__attribute__((swiftcall)) void unlock_slow(__attribute__((swift_context)) void *handle) {
  static slow_unlock *real;
  if (!real) real = (slow_unlock *)dlsym(RTLD_NEXT, SLOW_UNLOCK);
  if (__tsan_release) __tsan_release(handle);
  real(handle);
}
