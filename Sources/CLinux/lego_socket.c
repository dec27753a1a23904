#define _GNU_SOURCE
#include "lego_socket.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int lego_accept(int listener, int nonblocking) {
  int descriptor = accept4(listener, NULL, NULL, SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0));
  return descriptor < 0 ? -errno : descriptor;
}

ssize_t lego_send_descriptors(int socket, const void *bytes, size_t count, const int *descriptors, size_t descriptor_count) {
  if (descriptor_count > LEGO_SOCKET_DESCRIPTORS_MAX) return -EINVAL;
  struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int) * LEGO_SOCKET_DESCRIPTORS_MAX)];
  } control;
  memset(&control, 0, sizeof control);
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptor_count > 0) {
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptor_count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptor_count);
    memcpy(CMSG_DATA(header), descriptors, sizeof(int) * descriptor_count);
  }
  ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  return sent < 0 ? -errno : sent;
}

static void close_all(const int *descriptors, size_t count) {
  for (size_t i = 0; i < count; i++) close(descriptors[i]);
}

ssize_t lego_receive_descriptors(int socket, void *bytes, size_t capacity, int *descriptors, size_t descriptor_capacity,
                                 size_t *descriptor_count, struct lego_peer_credentials *credentials, int flags) {
  struct iovec part = {.iov_base = bytes, .iov_len = capacity};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int) * LEGO_SOCKET_DESCRIPTORS_MAX) + CMSG_SPACE(sizeof(struct ucred))];
  } control;
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
  int received[LEGO_SOCKET_DESCRIPTORS_MAX];
  size_t received_count = 0;
  if (credentials) memset(credentials, 0, sizeof *credentials);
  ssize_t count = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  if (count < 0) return -errno;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_RIGHTS) {
      size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < here && received_count < LEGO_SOCKET_DESCRIPTORS_MAX; i++)
        memcpy(&received[received_count++], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    } else if (header->cmsg_type == SCM_CREDENTIALS && credentials) {
      struct ucred attested;
      memcpy(&attested, CMSG_DATA(header), sizeof attested);
      *credentials = (struct lego_peer_credentials){attested.pid, attested.uid, attested.gid};
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) || received_count > descriptor_capacity) {
    close_all(received, received_count);
    return -EMSGSIZE;
  }
  if (received_count > 0) memcpy(descriptors, received, received_count * sizeof(int));
  if (descriptor_count) *descriptor_count = received_count;
  return count;
}

int lego_socket_pass_credentials(int socket) {
  int on = 1;
  return setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ? -errno : 0;
}

int lego_socket_peer_credentials(int socket, struct lego_peer_credentials *credentials) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return -errno;
  *credentials = (struct lego_peer_credentials){peer.pid, peer.uid, peer.gid};
  return 0;
}
