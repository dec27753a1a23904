// Stands for a lego-processor that is killed: starts one program under a guardian, prints the process numbers of the
// guardian, of the namespace's first process and of the program's, and waits. Arguments: lego-sandbox, then the program
// and its arguments.
#include "lego_process.h"
#include "lego_sandbox.h"
#include "lego_socket.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t add(char *payload, size_t at, const void *bytes, size_t count) {
  memcpy(payload + at, bytes, count);
  return at + count;
}

int main(int count, char **arguments) {
  int control[2], faults[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (count < 3 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0) return 1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, faults) < 0) return 1;
  const char *guardian_arguments[] = {arguments[1], NULL};
  int descriptors[] = {null, null, null, control[1], faults[1]};
  pid_t guardian = lego_spawn(arguments[1], guardian_arguments, descriptors, 5);
  if (guardian < 0) return 2;
  close(control[1]);
  close(faults[1]);

  // Traps brk, which nobody answers: the program hangs in its first system call.
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  static char payload[65536];
  size_t length = add(payload, 0, filter, sizeof filter);
  length = add(payload, length, "/", 2);
  for (int i = 2; i < count; i++) length = add(payload, length, arguments[i], strlen(arguments[i]) + 1);
  int file = memfd_create("start", MFD_CLOEXEC);
  if (write(file, payload, length) != (ssize_t)length) return 3;
  struct lego_sandbox_start start = {.magic = LEGO_SANDBOX_MAGIC,
                                     .payload_bytes = (uint32_t)length,
                                     .uid = 65534,
                                     .gid = 65534,
                                     .filter_count = 4,
                                     .argument_count = (uint32_t)count - 2,
                                     .setup_ms = 20000};
  struct lego_sandbox_prepare preparation = {.magic = LEGO_SANDBOX_MAGIC, .root = "/"};
  if (lego_send_descriptors(control[0], &preparation, sizeof preparation, NULL, 0) < 0) return 4;
  int streams[] = {null, null, null, file};
  if (lego_send_descriptors(control[0], &start, sizeof start, streams, 4) < 0) return 4;

  struct lego_sandbox_report report;
  int received[2];
  size_t received_count = 0;
  lego_receive_descriptors(control[0], &report, sizeof report, received, 2, &received_count, NULL, 0);
  if (report.kind != LEGO_SANDBOX_READY) return 5;
  char go = LEGO_SANDBOX_GO;
  if (send(control[0], &go, 1, 0) != 1) return 6;
  dprintf(1, "%d %d %d\n", guardian, report.init_process, report.program_process);
  for (;;) pause();
}
