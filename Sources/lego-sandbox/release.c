// A killed processor whose thread waits for a file of a tree that the same process served would wait for ever: the
// kernel closes the FUSE device with the last thread's descriptors, and that thread is the one that waits. So this
// process, which outlives the processor, ends the wait (umount2(2), MNT_FORCE aborts the FUSE connection).
#define _GNU_SOURCE
#include "lego_mount.h"
#include "sandbox.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <unistd.h>

static void nothing(int number) { (void)number; }

_Noreturn void release_run(char **mounts) {
  sigset_t blocked;
  sigfillset(&blocked);
  sigprocmask(SIG_SETMASK, &blocked, NULL);
  struct sigaction action = {.sa_handler = nothing};
  sigaction(SIGTERM, &action, NULL);
  // The signal comes when the thread that started this process ends, which waits for no file; the socket ends only
  // with the last one.
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  prctl(PR_SET_NAME, "lego-release");
  char byte = 0;
  if (chdir("/") < 0 || write(LEGO_SANDBOX_CONTROL, &byte, 1) != 1) _exit(1);
  sigdelset(&blocked, SIGTERM);
  struct pollfd processor = {.fd = LEGO_SANDBOX_CONTROL, .events = POLLIN};
  while (ppoll(&processor, 1, NULL, &blocked) == 0) continue;
  for (; *mounts; mounts++) (void)lego_unmount(*mounts, 1);
  _exit(0);
}
