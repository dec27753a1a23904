// A pseudo-terminal of the sandbox (pty(7)), for a program that is to have a controlling terminal.
#define _GNU_SOURCE
#include "sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

int terminal_open(struct start *start) {
  int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return -errno;
  int locked = 0;
  struct winsize size = {.ws_row = start->header.terminal_rows, .ws_col = start->header.terminal_columns};
  // By the master and not by name: no link and no other mount can lead elsewhere.
  int terminal = ioctl(master, TIOCSPTLCK, &locked) < 0 ? -1 : ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0 || ioctl(master, TIOCSWINSZ, &size) < 0 || fchown(terminal, start->header.uid, (gid_t)-1) < 0) {
    int error = errno;
    if (terminal >= 0) close(terminal);
    close(master);
    return -error;
  }
  start->terminal = terminal;
  return master;
}

int terminal_take(int terminal) {
  if (setsid() < 0 || ioctl(terminal, TIOCSCTTY, 0) < 0) return -errno;
  for (int number = 0; number < 3; number++)
    if (dup2(terminal, number) < 0) return -errno;
  return 0;
}
