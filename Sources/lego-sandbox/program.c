// Process 2 of the namespace, or one that joins it: gives up rights, takes the filter and becomes the program.
#define _GNU_SOURCE
#include "sandbox.h"
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN_FILES = 1024 }; // the soft limit that a login has

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

// What a program of user 0 keeps: rights over files, users and its own network use, none over the host.
static const uint64_t kept_capabilities =
    1ull << CAP_CHOWN | 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_FOWNER | 1ull << CAP_FSETID | 1ull << CAP_KILL |
    1ull << CAP_SETGID | 1ull << CAP_SETUID | 1ull << CAP_SETPCAP | 1ull << CAP_NET_BIND_SERVICE | 1ull << CAP_NET_RAW |
    1ull << CAP_SYS_CHROOT | 1ull << CAP_AUDIT_WRITE | 1ull << CAP_SETFCAP;

static _Noreturn void fail(int inner, enum lego_sandbox_stage stage, const char *subject) {
  inner_fail(inner, (struct failure){.stage = stage, .error = errno, .subject = subject});
}

static void take_streams(const struct start *start, int inner) {
  if (start->terminal >= 0) {
    int result = terminal_take(start->terminal);
    if (result < 0)
      inner_fail(inner, (struct failure){.stage = LEGO_SANDBOX_STAGE_PROCESS, .error = -result, .subject = "terminal"});
    return;
  }
  // A group of its own, in the session of init, as a shell with job control gives: the group is not orphaned, so
  // SIGTSTP stops it.
  setpgid(0, 0);
  // The streams are above 2: the guardian's own 0, 1 and 2 were open when it received them.
  for (int i = 0; i < 3; i++)
    if (dup2(start->streams[i], i) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "dup2");
}

static void set_limits(int inner) {
  // No core files unless the program asks for them, as after a login. 1 and not 0, which does not keep a core from the
  // host's handler (core(5)).
  struct rlimit core = {1, RLIM_INFINITY}, files;
  if (setrlimit(RLIMIT_CORE, &core) < 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
    fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "setrlimit");
  if (files.rlim_cur > OPEN_FILES) files.rlim_cur = OPEN_FILES;
  if (setrlimit(RLIMIT_NOFILE, &files) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "setrlimit");
  // The processor's memory engine works in pages of 4 KiB.
  if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "prctl PR_SET_THP_DISABLE");
  umask(022);
}

// The filter traps what would widen this again, and the daemon refuses it.
static void set_processors(const struct start *start, int inner) {
  int is_limited = 0;
  for (int i = 0; i < LEGO_SANDBOX_PROCESSOR_WORDS; i++) is_limited |= start->header.processors[i] != 0;
  if (is_limited && syscall(SYS_sched_setaffinity, 0, sizeof start->header.processors, start->header.processors) < 0)
    fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "sched_setaffinity");
}

static void drop_bounding_set(int inner) {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
    if (!(kept_capabilities >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
      fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "prctl PR_CAPBSET_DROP");
}

static void drop_capabilities(int inner, int is_root) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct held[2], wanted[2];
  if (syscall(SYS_capget, &header, held) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "capget");
  for (int i = 0; i < 2; i++) {
    uint32_t kept = is_root ? (uint32_t)(kept_capabilities >> (32 * i)) & held[i].permitted : 0;
    wanted[i] = (struct __user_cap_data_struct){.effective = kept, .permitted = kept, .inheritable = 0};
  }
  if (syscall(SYS_capset, &header, wanted) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "capset");
}

static void become_user(const struct start *start, int inner) {
  const struct lego_sandbox_start *header = &start->header;
  // A session keyring of its own: the daemon's would let the program possess the daemon's keys.
  (void)syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
  drop_bounding_set(inner);
  if (setgroups(header->group_count, start->groups) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "setgroups");
  if (setresgid(header->gid, header->gid, header->gid) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "setresgid");
  if (setresuid(header->uid, header->uid, header->uid) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "setresuid");
  drop_capabilities(inner, header->uid == 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "prctl PR_SET_NO_NEW_PRIVS");
}

static void reset_signals(void) {
  // By the kernel's own interface: the C library keeps two signals to itself, whose disposition is inherited all the
  // same.
  const struct {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
  } standard = {0};
  sigset_t none;
  sigemptyset(&none);
  for (int number = 1; number < _NSIG; number++)
    syscall(SYS_rt_sigaction, number, &standard, NULL, sizeof standard.mask);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

// From here to exec no call may be one that the filter traps (no allocation): nobody listens yet.
static void take_filter(const struct start *start, int inner) {
  struct sock_fprog filter = {.len = (unsigned short)start->header.filter_count, .filter = start->filter};
  long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                          SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &filter);
  if (listener < 0) fail(inner, LEGO_SANDBOX_STAGE_FILTER, "");
  int result = inner_send(inner, LEGO_SANDBOX_INNER_FILTERED, 0, (int)listener, -1);
  if (result < 0) _exit(127); // The guardian is gone.
  close((int)listener);
}

// Tries one path. Comes back when exec fails, with what to say about it.
static struct failure try(const struct start *start, const char *path) {
  execve(path, start->arguments, start->environment);
  struct failure failure = {.stage = LEGO_SANDBOX_STAGE_EXECUTE, .error = errno, .subject = path};
  struct stat status;
  if (failure.error == EACCES && stat(path, &status) == 0 && S_ISDIR(status.st_mode)) failure.error = EISDIR;
  if (failure.error == EACCES && stat(path, &status) < 0 && strcmp(path, start->arguments[0]) != 0)
    failure.error = ENOENT; // a directory of PATH that this user may not search holds nothing for it, as shells see it
  if (failure.error == ENOENT && stat(path, &status) == 0) failure.stage = LEGO_SANDBOX_STAGE_INTERPRETER;
  return failure;
}

static const char *search_path(const struct start *start) {
  for (char **entry = start->environment; *entry; entry++)
    if (strncmp(*entry, "PATH=", 5) == 0) return *entry + 5;
  return DEFAULT_PATH;
}

// Executes as a shell would: the first match in PATH that can be executed; else what forbade one; else not found.
static _Noreturn void execute(const struct start *start, int inner) {
  static char path[PATH_MAX], forbidden[PATH_MAX];
  const char *name = start->arguments[0];
  if (strchr(name, '/')) inner_fail(inner, try(start, name));
  struct failure worst = {.stage = LEGO_SANDBOX_STAGE_EXECUTE, .error = ENOENT, .subject = name};
  const char *directory = search_path(start);
  for (; name[0] != 0 && directory; directory = directory[0] ? directory + 1 : NULL) {
    size_t length = strcspn(directory, ":");
    int written = snprintf(path, sizeof path, "%.*s%s%s", (int)length, directory, length ? "/" : "./", name);
    directory += length;
    if (written < 0 || (size_t)written >= sizeof path) continue;
    struct failure failure = try(start, path);
    if (failure.stage == LEGO_SANDBOX_STAGE_EXECUTE &&
        (failure.error == ENOENT || failure.error == ENOTDIR || failure.error == EISDIR))
      continue;
    if (failure.stage != LEGO_SANDBOX_STAGE_EXECUTE || failure.error != EACCES) inner_fail(inner, failure);
    memcpy(forbidden, path, sizeof path);
    worst = (struct failure){.stage = failure.stage, .error = failure.error, .subject = forbidden};
  }
  inner_fail(inner, worst);
}

_Noreturn void program_run(const struct start *start, int inner) {
  take_streams(start, inner);
  set_limits(inner);
  set_processors(start, inner);
  become_user(start, inner);
  if (chdir(start->directory) < 0) fail(inner, LEGO_SANDBOX_STAGE_WORKING, start->directory);
  reset_signals();
  // Makes exec stop before the program's first instruction; init lets go.
  if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "ptrace PTRACE_TRACEME");
  if (close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC) < 0) fail(inner, LEGO_SANDBOX_STAGE_PROCESS, "close_range");
  take_filter(start, inner);
  execute(start, inner);
}
