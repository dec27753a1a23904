#define _GNU_SOURCE
#include "lego_ptrace.h"
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

static int result_of(long result) { return result < 0 ? -errno : (int)result; }

int lego_ptrace_seize(pid_t thread) { return result_of(ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD)); }
int lego_ptrace_interrupt(pid_t thread) { return result_of(ptrace(PTRACE_INTERRUPT, thread, 0, 0)); }

int lego_ptrace_get_registers(pid_t thread, lego_registers *registers) {
  return result_of(ptrace(PTRACE_GETREGS, thread, 0, registers));
}

int lego_ptrace_set_registers(pid_t thread, const lego_registers *registers) {
  // The general registers alone: PTRACE_SETREGS refuses segment bases that wrfsbase and wrgsbase may well have set.
  struct iovec general = {.iov_base = (void *)registers, .iov_len = offsetof(struct user_regs_struct, fs_base)};
  return result_of(ptrace(PTRACE_SETREGSET, thread, NT_PRSTATUS, &general));
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

// Lets one tracee go that has stopped or ended; 0 when there is none.
static pid_t let_go(pid_t thread) {
  int status;
  pid_t found = waitpid(thread, &status, WNOHANG | __WALL | __WNOTHREAD);
  if (found > 0 && WIFSTOPPED(status)) {
    int is_signal = status >> 16 == 0 && WSTOPSIG(status) != (SIGTRAP | 0x80);
    ptrace(PTRACE_DETACH, found, 0, is_signal ? WSTOPSIG(status) : 0);
  }
  return found > 0 ? found : 0;
}

int lego_ptrace_release(pid_t thread, int signal_number) {
  if (ptrace(PTRACE_DETACH, thread, 0, signal_number) == 0) return 1;
  // It runs, or has ended; in both cases there will be something to wait for.
  ptrace(PTRACE_INTERRUPT, thread, 0, 0);
  for (int tries = 0; tries < 20; tries++) {
    if (let_go(thread) != 0) return 1;
    poll(NULL, 0, 1);
  }
  return 0;
}

void lego_ptrace_sweep(void) {
  while (let_go(-1) != 0) {}
}

ssize_t lego_process_read(pid_t pid, uint64_t address, void *into, size_t bytes) {
  struct iovec local = {into, bytes}, remote = {(void *)(uintptr_t)address, bytes};
  ssize_t count = process_vm_readv(pid, &local, 1, &remote, 1, 0);
  return count < 0 ? -errno : count;
}
