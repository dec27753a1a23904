// sock_diag(7): what the kernel knows of a socket.
#pragma once
#include <stdint.h>

// The user id that owns the socket of the established TCP connection from `source` to `destination` on this host, seen from the
// source: which user the process at that end belongs to. family: AF_INET (4 address bytes) or AF_INET6 (16); ports in host
// order. Answers the id as a non-negative number, -ENOENT when there is no such connection or nobody holds its socket any more,
// -EPERM when the answer is not the kernel's. Does not wait.
int64_t lego_tcp_owner(int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
                       uint16_t destination_port);
