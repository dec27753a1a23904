#define _GNU_SOURCE
#include "lego_ptrace.h"
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int result_of(long result) { return result < 0 ? -errno : (int)result; }

int lego_ptrace_seize(pid_t thread) { return result_of(ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD)); }
int lego_ptrace_interrupt(pid_t thread) { return result_of(ptrace(PTRACE_INTERRUPT, thread, 0, 0)); }

int lego_ptrace_get_registers(pid_t thread, lego_registers *registers) {
  return result_of(ptrace(PTRACE_GETREGS, thread, 0, registers));
}

int lego_ptrace_set_registers(pid_t thread, const lego_registers *registers) {
  return result_of(ptrace(PTRACE_SETREGS, thread, 0, registers));
}

int lego_ptrace_get_signal_mask(pid_t thread, uint64_t *mask) {
  return result_of(ptrace(PTRACE_GETSIGMASK, thread, sizeof *mask, mask));
}

int lego_ptrace_set_signal_mask(pid_t thread, uint64_t mask) {
  return result_of(ptrace(PTRACE_SETSIGMASK, thread, sizeof mask, &mask));
}

int lego_ptrace_continue(pid_t thread, int signal_number) {
  return result_of(ptrace(PTRACE_CONT, thread, 0, (long)signal_number));
}

int lego_ptrace_continue_to_syscall(pid_t thread) { return result_of(ptrace(PTRACE_SYSCALL, thread, 0, 0)); }

int lego_ptrace_detach(pid_t thread, int signal_number) {
  return result_of(ptrace(PTRACE_DETACH, thread, 0, (long)signal_number));
}

int lego_ptrace_poll(pid_t thread, int *signal_number) {
  int status;
  pid_t found = waitpid(thread, &status, WNOHANG | __WALL);
  if (found < 0) return errno == ECHILD ? LEGO_STOP_GONE : -errno;
  if (found == 0) return LEGO_STOP_NONE;
  if (!WIFSTOPPED(status)) return LEGO_STOP_GONE;
  *signal_number = WSTOPSIG(status) & 0x7f;
  if (status >> 16 == PTRACE_EVENT_STOP) return WSTOPSIG(status) == SIGTRAP ? LEGO_STOP_INTERRUPT : LEGO_STOP_GROUP;
  if (WSTOPSIG(status) == (SIGTRAP | 0x80)) return LEGO_STOP_SYSCALL;
  return LEGO_STOP_SIGNAL;
}

ssize_t lego_process_read(pid_t pid, uint64_t address, void *into, size_t bytes) {
  struct iovec local = {into, bytes}, remote = {(void *)(uintptr_t)address, bytes};
  ssize_t count = process_vm_readv(pid, &local, 1, &remote, 1, 0);
  return count < 0 ? -errno : count;
}
