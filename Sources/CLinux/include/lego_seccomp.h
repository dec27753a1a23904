// seccomp(2) and seccomp_unotify(2): system calls of another process, decided here.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct lego_notification {
  uint64_t id;
  int32_t thread; // in the reader's pid namespace
  int32_t listener; // where it came from and is answered
  uint32_t number;
  uint64_t arguments[6];
};

// Takes the next notification. -ENOENT when its thread has been killed meanwhile. Call only when the listener is
// readable.
int lego_seccomp_receive(int listener, struct lego_notification *notification);
// Answers the call with a value; -4095...-1 become errors. -ENOENT when the thread is gone.
int lego_seccomp_answer(int listener, uint64_t id, int64_t value);
// Lets the kernel execute the call.
int lego_seccomp_continue(int listener, uint64_t id);
// Puts a close-on-exec duplicate of descriptor into the caller's table; answers its number there.
int lego_seccomp_add_descriptor(int listener, uint64_t id, int descriptor);
// 0 while the call still waits for an answer.
int lego_seccomp_check(int listener, uint64_t id);
// Asks that the reader be woken on the notifying thread's processor (Linux 6.6).
int lego_seccomp_wake_in_place(int listener);

// Whether the kernel knows a seccomp filter flag, without installing anything.
int lego_seccomp_knows_flags(uint64_t flags);
enum { LEGO_SECCOMP_NEW_LISTENER = 1 << 3, LEGO_SECCOMP_WAIT_KILLABLE = 1 << 5 };
