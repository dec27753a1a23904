// lego-sandbox: the guardian of one program, or, called with mount points, what lets go of these when the processor is
// gone. lego-processor starts it, never a user.
#include "sandbox.h"
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **values) {
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(LEGO_SANDBOX_CONTROL, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_SEQPACKET) {
    fputs("lego-sandbox is a part of lego-processor, which starts it; submit programs with 'legoctl run'\n", stderr);
    return 64;
  }
  if (count > 1) release_run(values + 1);
  guardian_run();
}
