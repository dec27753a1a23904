#define _GNU_SOURCE
#include "lego_pipe.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

int lego_pipe(int *ends) { return pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0; }

int lego_page_pipe(int *reader, int *writer, size_t bytes) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return -errno;
  if (fcntl(ends[0], F_SETPIPE_SZ, (int)bytes) < (int)bytes) {
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return -error;
  }
  *reader = ends[0];
  *writer = ends[1];
  return 0;
}

int lego_pipe_bytes(int reader) {
  int bytes = 0;
  return ioctl(reader, FIONREAD, &bytes) < 0 ? -errno : bytes;
}
