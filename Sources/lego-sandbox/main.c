// lego-sandbox: the guardian of one program. lego-processor starts it, never a user.
#include "sandbox.h"
#include <stdio.h>
#include <sys/socket.h>

int main(void) {
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(LEGO_SANDBOX_CONTROL, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_SEQPACKET) {
    fputs("lego-sandbox is a part of lego-processor, which starts it; submit programs with 'legoctl run'\n", stderr);
    return 64;
  }
  guardian_run();
}
