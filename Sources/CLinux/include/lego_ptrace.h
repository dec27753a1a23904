// ptrace(2) by PTRACE_SEIZE, and reading another process's memory. A thread is traced by the thread that seized it,
// which alone may make these calls.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

typedef struct user_regs_struct lego_registers;

// How a traced thread was found.
enum lego_stop {
  LEGO_STOP_NONE = 0,      // still runs
  LEGO_STOP_INTERRUPT = 1, // stopped as asked
  LEGO_STOP_SYSCALL = 2,   // entering or leaving a system call
  LEGO_STOP_SIGNAL = 3,    // about to take a signal: *signal_number
  LEGO_STOP_GROUP = 4,     // stopped by job control
  LEGO_STOP_GONE = 5,      // dead
};

int lego_ptrace_seize(pid_t thread);
int lego_ptrace_interrupt(pid_t thread);
int lego_ptrace_get_registers(pid_t thread, lego_registers *registers);
int lego_ptrace_set_registers(pid_t thread, const lego_registers *registers);
int lego_ptrace_get_signal_mask(pid_t thread, uint64_t *mask);
int lego_ptrace_set_signal_mask(pid_t thread, uint64_t mask);
// Lets it run; with a signal number it takes that signal.
int lego_ptrace_continue(pid_t thread, int signal_number);
// Lets it run to the next entry or exit of a system call.
int lego_ptrace_continue_to_syscall(pid_t thread);
int lego_ptrace_detach(pid_t thread, int signal_number);
// Lets a tracee go in whatever state it is: stopped, running or dead. A dead one that its tracer does not wait for is
// never seen dead by its parent. Waits up to 20 ms; 0 when it was neither stopped nor dead by then.
int lego_ptrace_release(pid_t thread, int signal_number);
// Lets go of all tracees of the calling thread that have stopped or ended.
void lego_ptrace_sweep(void);
// Looks whether the thread has stopped; never waits. Answers enum lego_stop or -errno.
int lego_ptrace_poll(pid_t thread, int *signal_number);

// process_vm_readv(2) of one range. May block for as long as a fault of that range would: only for ranges without a
// userfaultfd.
ssize_t lego_process_read(pid_t pid, uint64_t address, void *into, size_t bytes);
