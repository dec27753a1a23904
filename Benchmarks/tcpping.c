// What TCP itself costs between two processes of one host: a request of 64 bytes is answered with SIZE bytes, by plain
// blocking calls on both sides. The least that a READ over TCP can be.
//
//   tcpping SIZE...     prints a line "SIZE MEDIAN" for each, in microseconds
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 64, HEAD = 64 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void take(int socket, char *buffer, size_t count) {
  while (count > 0) {
    ssize_t got = recv(socket, buffer, count, 0);
    if (got == 0) exit(0);
    if (got < 0) fail("recv");
    buffer += got;
    count -= (size_t)got;
  }
}

static void give(int socket, const char *buffer, size_t count) {
  while (count > 0) {
    ssize_t sent = send(socket, buffer, count, MSG_NOSIGNAL);
    if (sent < 0) fail("send");
    buffer += sent;
    count -= (size_t)sent;
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int compare(const void *left, const void *right) {
  double difference = *(const double *)left - *(const double *)right;
  return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
  size_t largest = 1 << 24;
  char *buffer = calloc(1, largest + HEAD);
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof name;
  if (!buffer || listener < 0 || bind(listener, (struct sockaddr *)&name, length) < 0 || listen(listener, 1) < 0 ||
      getsockname(listener, (struct sockaddr *)&name, &length) < 0)
    fail("listen");
  pid_t server = fork();
  if (server < 0) fail("fork");
  if (server == 0) {
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) fail("accept");
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
      take(peer, buffer, REQUEST);
      uint64_t size;
      memcpy(&size, buffer, sizeof size);
      if (size > largest) exit(1);
      give(peer, buffer, HEAD + size);
    }
  }
  int peer = socket(AF_INET, SOCK_STREAM, 0);
  if (peer < 0 || connect(peer, (struct sockaddr *)&name, sizeof name) < 0) fail("connect");
  setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (int index = 1; index < count; index++) {
    uint64_t size = strtoull(arguments[index], NULL, 10);
    if (size > largest) {
      fprintf(stderr, "tcpping: a size of %s is out of range: 0 to %zu\n", arguments[index], largest);
      return 2;
    }
    int rounds = size > 65536 ? 1000 : 10000;
    double *samples = calloc((size_t)rounds, sizeof *samples);
    for (int round = -rounds / 20; round < rounds; round++) {
      double start = now();
      memcpy(buffer, &size, sizeof size);
      give(peer, buffer, REQUEST);
      take(peer, buffer, HEAD + size);
      if (round >= 0) samples[round] = now() - start;
    }
    qsort(samples, (size_t)rounds, sizeof *samples, compare);
    printf("%llu %.3f\n", (unsigned long long)size, samples[rounds / 2]);
    free(samples);
  }
  close(peer);
  waitpid(server, NULL, 0);
  return 0;
}
