// unix(7) ancillary data and the accept4 and socket calls whose flags Swift does not import.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { LEGO_SOCKET_DESCRIPTORS_MAX = 16 };

struct lego_peer_credentials {
  pid_t pid; // in the reader's pid namespace; 0 when it has no number there
  uid_t uid;
  gid_t gid;
};

// accept4(2) with SOCK_CLOEXEC; non-blocking when asked.
int lego_accept(int listener, int nonblocking);
// Sends bytes and up to LEGO_SOCKET_DESCRIPTORS_MAX descriptors in one message (SCM_RIGHTS). Answers the bytes sent.
ssize_t lego_send_descriptors(int socket, const void *bytes, size_t count, const int *descriptors, size_t descriptor_count);
// Receives one message; descriptors arrive close-on-exec, *descriptor_count says how many. When credentials is not NULL and the
// socket has SO_PASSCRED, it is filled with what the kernel attests (pid 0 when the message carries none). A message whose
// descriptors did not fit is refused with -EMSGSIZE and nothing stays open. Answers bytes, 0 at end of stream.
ssize_t lego_receive_descriptors(int socket, void *bytes, size_t capacity, int *descriptors, size_t descriptor_capacity,
                                 size_t *descriptor_count, struct lego_peer_credentials *credentials, int flags);
// SO_PASSCRED on.
int lego_socket_pass_credentials(int socket);
// SO_PEERCRED of a connected Unix socket.
int lego_socket_peer_credentials(int socket, struct lego_peer_credentials *credentials);
