#define _GNU_SOURCE
#include "lego_sock_diag.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct question {
  struct nlmsghdr header;
  struct inet_diag_req_v2 request;
};

// Finds the answer in what the kernel sent.
static int64_t owner(const char *bytes, size_t count) {
  for (const struct nlmsghdr *message = (const struct nlmsghdr *)bytes; NLMSG_OK(message, count);
       message = NLMSG_NEXT(message, count)) {
    if (message->nlmsg_type == NLMSG_ERROR) {
      const struct nlmsgerr *error = NLMSG_DATA(message);
      if (message->nlmsg_len < NLMSG_LENGTH(sizeof *error)) return -EPROTO;
      return error->error < 0 ? error->error : -ENOENT;
    }
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY) continue;
    const struct inet_diag_msg *socket = NLMSG_DATA(message);
    if (message->nlmsg_len < NLMSG_LENGTH(sizeof *socket)) return -EPROTO;
    // A socket that its process has closed reports the user 0. The kernel reads the owner before the inode, so an inode means
    // that the owner was still there.
    if (socket->idiag_state != TCP_ESTABLISHED || socket->idiag_inode == 0) return -ENOENT;
    return socket->idiag_uid;
  }
  return -ENOENT;
}

int64_t lego_tcp_owner(int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
                       uint16_t destination_port) {
  size_t length = family == AF_INET ? 4 : family == AF_INET6 ? 16 : 0;
  if (!length) return -EAFNOSUPPORT;
  struct question question = {
      .header = {.nlmsg_len = sizeof question, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
      .request = {.sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << TCP_ESTABLISHED}};
  question.request.id.idiag_sport = htons(source_port);
  question.request.id.idiag_dport = htons(destination_port);
  question.request.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  question.request.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  memcpy(question.request.id.idiag_src, source, length);
  memcpy(question.request.id.idiag_dst, destination, length);

  int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (netlink < 0) return -errno;
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  int64_t result;
  // The kernel answers within the send: the answer waits in the socket when it returns.
  if (sendto(netlink, &question, sizeof question, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) {
    result = -errno;
  } else {
    char answer[8192] __attribute__((aligned(NLMSG_ALIGNTO)));
    struct sockaddr_nl sender = {0};
    socklen_t sender_length = sizeof sender;
    ssize_t count = recvfrom(netlink, answer, sizeof answer, MSG_DONTWAIT, (struct sockaddr *)&sender, &sender_length);
    if (count < 0)
      result = -errno;
    else if (sender_length != sizeof sender || sender.nl_pid != 0)
      result = -EPERM;
    else
      result = owner(answer, (size_t)count);
  }
  close(netlink);
  return result;
}
