// Loads a redis server: half GET, half SET of 1 KiB values, keys by Zipf's law (0.99), several connections with one request each.
//
//   redisload PORT KEYS REQUESTS CONNECTIONS     after SETting every key once; prints name, requests a second, median and
//                                                99th percentile of the latency in microseconds
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VALUE = 1024, CONNECTIONS_MAX = 256, REPLY_MAX = VALUE + 64 };

struct connection {
  int socket, is_get;
  uint64_t sent_ns;
  int received;
  char reply[REPLY_MAX];
};

static uint64_t key_count, state = 88172645463325252ULL;
static double zeta, eta, alpha, half;
static char value[VALUE];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t next_random(void) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545F4914F6CDD1DULL;
}

static void zipf_prepare(double theta) {
  for (uint64_t i = 1; i <= key_count; i++) zeta += 1 / pow((double)i, theta);
  alpha = 1 / (1 - theta);
  eta = (1 - pow(2.0 / (double)key_count, 1 - theta)) / (1 - (1 + pow(0.5, theta)) / zeta);
  half = 1 + pow(0.5, theta);
}

static uint64_t zipf_key(void) {
  double u = (double)(next_random() >> 11) / 9007199254740992.0, uz = u * zeta;
  uint64_t rank = uz < 1 ? 0 : uz < half ? 1 : (uint64_t)((double)key_count * pow(eta * u - eta + 1, alpha));
  return (rank < key_count ? rank : key_count - 1) * 0x9E3779B97F4A7C15ULL % key_count;
}

static void send_all(int socket, const char *data, size_t length) {
  while (length > 0) {
    ssize_t sent = write(socket, data, length);
    if (sent <= 0) fail("write");
    data += sent, length -= (size_t)sent;
  }
}

static void request(struct connection *to, uint64_t key, int is_get) {
  char text[VALUE + 128], name[32];
  int length = snprintf(name, sizeof name, "key:%lu", (unsigned long)key), used;
  if (is_get)
    used = snprintf(text, sizeof text, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", length, name);
  else
    used = snprintf(text, sizeof text, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%.*s\r\n", length, name, VALUE, VALUE, value);
  to->is_get = is_get;
  to->received = 0;
  to->sent_ns = now_ns();
  send_all(to->socket, text, (size_t)used);
}

// Reads what has come; true when the reply is whole.
static int reply_is_whole(struct connection *from) {
  ssize_t got = read(from->socket, from->reply + from->received, (size_t)(REPLY_MAX - from->received));
  if (got <= 0) fail("read");
  from->received += (int)got;
  const char *expected = from->is_get ? "$1024\r\n" : "+OK\r\n";
  int whole = from->is_get ? 7 + VALUE + 2 : 5;
  if (from->received < whole) return 0;
  if (from->received > whole || memcmp(from->reply, expected, strlen(expected))) {
    fprintf(stderr, "redisload: unexpected reply: %.40s\n", from->reply);
    exit(1);
  }
  return 1;
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

int main(int count, char **values) {
  long port = count == 5 ? atol(values[1]) : 0, requests = count == 5 ? atol(values[3]) : 0, connections = count == 5 ? atol(values[4]) : 0;
  key_count = count == 5 ? (uint64_t)atol(values[2]) : 0;
  if (port < 1 || key_count < 2 || requests < 1 || connections < 1 || connections > CONNECTIONS_MAX) {
    fprintf(stderr, "usage: redisload PORT KEYS REQUESTS CONNECTIONS\n");
    return 64;
  }
  static struct connection all[CONNECTIONS_MAX];
  struct pollfd watched[CONNECTIONS_MAX];
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  for (int i = 0; i < VALUE; i++) value[i] = (char)(i < VALUE / 2 ? 'a' + next_random() % 26 : 'x');
  for (long i = 0; i < connections; i++) {
    int on = 1;
    all[i].socket = socket(AF_INET, SOCK_STREAM, 0);
    if (all[i].socket < 0 || connect(all[i].socket, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(all[i].socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watched[i] = (struct pollfd){.fd = all[i].socket, .events = POLLIN};
  }
  zipf_prepare(0.99);
  uint32_t *latencies = malloc((size_t)requests * sizeof *latencies);
  if (!latencies) fail("malloc");
  double start = 0;
  // The first pass sets every key in order, the second one is measured.
  for (int pass = 0; pass < 2; pass++) {
    uint64_t begun = 0, ended = 0, total = pass == 0 ? key_count : (uint64_t)requests;
    start = (double)now_ns() / 1e9;
    for (long i = 0; i < connections && begun < total; i++, begun++) request(&all[i], pass == 0 ? begun : zipf_key(), pass && begun % 2);
    while (ended < total) {
      if (poll(watched, (nfds_t)connections, 60000) <= 0) fail("poll");
      for (long i = 0; i < connections; i++) {
        if (!(watched[i].revents & (POLLIN | POLLHUP | POLLERR)) || !reply_is_whole(&all[i])) continue;
        if (pass) latencies[ended] = (uint32_t)((now_ns() - all[i].sent_ns) / 1000);
        ended++;
        if (begun < total) request(&all[i], pass == 0 ? begun : zipf_key(), pass && begun % 2), begun++;
      }
    }
  }
  double seconds = (double)now_ns() / 1e9 - start;
  qsort(latencies, (size_t)requests, sizeof *latencies, by_value);
  printf("redis %.0f requests/s median %u us p99 %u us\n", (double)requests / seconds, latencies[requests / 2], latencies[requests / 100 * 99]);
  return 0;
}
