// Futexes of every kind whose words are not resident when the kernel looks at them: it writes to some of them where it
// waits for no fault. Each word has a page of its own, which is evicted before each call. Calls are made without the C
// library, which touches a word before it calls.
#include "check.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

enum { WAITERS = 3 };
enum { PATIENCE_S = 20 };

static long futex(void *word, int operation, uint32_t value, const void *timeout, void *other, uint32_t third) {
  long result = syscall(SYS_futex, word, operation, value, timeout, other, third);
  return result < 0 ? -errno : result;
}

static uint32_t *word_page(void) {
  uint32_t *word = (uint32_t *)(pages(3) + PAGE);
  *word = 0;
  return word;
}
static uint32_t *shared_word(void) {
  return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}
static uint32_t value(uint32_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

// A thread that makes one call; that it sleeps there is seen in proc(5), without a look at the word.
struct call {
  void *word, *other;
  int operation;
  uint32_t value;
  const struct timespec *timeout;
  long result;
  pthread_t thread;
  pid_t id;
  // Its directory in proc(5), which may be that of another pid namespace.
  char directory[64];
  void (*before)(struct call *);
};
static void *make_call(void *argument) {
  struct call *call = argument;
  if (readlink("/proc/thread-self", call->directory, sizeof call->directory - 1) < 0) abort();
  __atomic_store_n(&call->id, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
  if (call->before) call->before(call);
  call->result = futex(call->word, call->operation, call->value, call->timeout, call->other, 0);
  return NULL;
}
static int sleeps_in(const char *directory, long number) {
  char path[128], text[64] = "";
  snprintf(path, sizeof path, "/proc/%s/syscall", directory);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  if (!fgets(text, sizeof text, file)) text[0] = 0;
  fclose(file);
  return text[0] >= '0' && text[0] <= '9' && atol(text) == number;
}
static void start(struct call *call) {
  CHECK(pthread_create(&call->thread, NULL, make_call, call) == 0);
  while (!__atomic_load_n(&call->id, __ATOMIC_SEQ_CST) || !sleeps_in(call->directory, SYS_futex)) sched_yield();
}
static long end(struct call *call) {
  pthread_join(call->thread, NULL);
  return call->result;
}

static void wait_and_wake(int flags, uint32_t *word) {
  struct call calls[WAITERS] = {0};
  press(PRESSURE);
  CHECK(futex(word, FUTEX_WAIT | flags, 1, NULL, NULL, 0) == -EAGAIN);
  press(PRESSURE);
  for (int i = 0; i < WAITERS; i++) {
    calls[i] = (struct call){.word = word, .operation = FUTEX_WAIT | flags};
    start(&calls[i]);
  }
  press(PRESSURE);
  // One that is about to sleep is not woken yet.
  long woken = 0, result = 0;
  while (woken < WAITERS && (result = futex(word, FUTEX_WAKE | flags, WAITERS, NULL, NULL, 0)) >= 0) woken += result;
  CHECK(woken == WAITERS);
  for (int i = 0; i < WAITERS; i++) CHECK(end(&calls[i]) == 0);
  press(PRESSURE);
  const struct timespec soon = {0, 1000};
  CHECK(futex(word, FUTEX_WAIT | flags, 0, &soon, NULL, 0) == -ETIMEDOUT);
}

static void requeue(int flags, uint32_t *from, uint32_t *to) {
  struct call calls[WAITERS] = {0};
  for (int i = 0; i < WAITERS; i++) {
    calls[i] = (struct call){.word = from, .operation = FUTEX_WAIT | flags};
    start(&calls[i]);
  }
  press(PRESSURE);
  CHECK(futex(from, FUTEX_CMP_REQUEUE | flags, 1, (void *)(uintptr_t)WAITERS, to, 5) == -EAGAIN);
  long moved = 0, result = 0;
  while (moved < WAITERS && result >= 0) {
    press(PRESSURE);
    result = futex(from, FUTEX_CMP_REQUEUE | flags, 0, (void *)(uintptr_t)WAITERS, to, 0);
    moved += result;
  }
  press(PRESSURE);
  CHECK(futex(to, FUTEX_WAKE | flags, WAITERS, NULL, NULL, 0) == WAITERS);
  for (int i = 0; i < WAITERS; i++) CHECK(end(&calls[i]) == 0);
}

static void wake_operation(int flags, uint32_t *word, uint32_t *other) {
  *other = 7;
  press(PRESSURE);
  // other += 5, and its old value is compared with 7.
  CHECK(futex(word, FUTEX_WAKE_OP | flags, 1, (void *)1, other, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 7)) == 0);
  CHECK(value(other) == 12);
}

static void hold(struct call *call) {
  __atomic_store_n((uint32_t *)call->word, (uint32_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
}

// Priority inheritance: a lock that is taken, waited for, handed over by the kernel, and tried.
static void inherit(int flags, uint32_t *word) {
  uint32_t self = (uint32_t)syscall(SYS_gettid);
  press(PRESSURE);
  CHECK(futex(word, FUTEX_LOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  CHECK(value(word) == self);
  press(PRESSURE);
  CHECK(futex(word, FUTEX_TRYLOCK_PI | flags, 0, NULL, NULL, 0) == -EDEADLK);
  struct call waiter = {.word = word, .operation = FUTEX_LOCK_PI | flags};
  start(&waiter);
  while (!(value(word) & FUTEX_WAITERS)) sched_yield();
  press(PRESSURE);
  CHECK(futex(word, FUTEX_UNLOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  CHECK(end(&waiter) == 0);
  // The waiter has ended as the owner, without a robust list: nobody can have it.
  CHECK((value(word) & FUTEX_TID_MASK) == (uint32_t)waiter.id);
  *word = 0;
  press(PRESSURE);
  CHECK(futex(word, FUTEX_TRYLOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  press(PRESSURE);
  CHECK(futex(word, FUTEX_UNLOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  CHECK(value(word) == 0);
  struct call locked = {.word = word, .operation = FUTEX_LOCK_PI2 | flags, .before = hold};
  press(PRESSURE);
  CHECK(pthread_create(&locked.thread, NULL, make_call, &locked) == 0);
  CHECK(end(&locked) == -EDEADLK);
}

static void requeue_to_inheritor(uint32_t *condition, uint32_t *lock) {
  int flags = FUTEX_PRIVATE_FLAG;
  press(PRESSURE);
  CHECK(futex(lock, FUTEX_LOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  struct call waiter = {.word = condition, .other = lock, .operation = FUTEX_WAIT_REQUEUE_PI | flags};
  start(&waiter);
  long moved = 0;
  while (moved == 0) {
    press(PRESSURE);
    moved = futex(condition, FUTEX_CMP_REQUEUE_PI | flags, 1, (void *)(uintptr_t)WAITERS, lock, 0);
  }
  CHECK(moved == 1);
  press(PRESSURE);
  CHECK(value(lock) & FUTEX_WAITERS);
  press(PRESSURE);
  CHECK(futex(lock, FUTEX_UNLOCK_PI | flags, 0, NULL, NULL, 0) == 0);
  CHECK(end(&waiter) == 0);
  CHECK((value(lock) & FUTEX_TID_MASK) == (uint32_t)waiter.id);
}

struct lock_node {
  struct robust_list list;
  uint32_t word;
};
static struct lock_node *nodes[2];
static struct robust_list_head *heads[2];

// Takes two locks, lets everything be evicted, and dies as it is told.
static void own_and_press(int by_signal) {
  struct robust_list_head *head = heads[by_signal];
  head->list.next = &nodes[0]->list;
  nodes[0]->list.next = &nodes[1]->list;
  nodes[1]->list.next = &head->list;
  head->futex_offset = offsetof(struct lock_node, word);
  head->list_op_pending = NULL;
  CHECK(syscall(SYS_set_robust_list, head, sizeof *head) == 0);
  for (int i = 0; i < 2; i++) nodes[i]->word = (uint32_t)syscall(SYS_gettid) | FUTEX_WAITERS;
}
static void *die_as_a_thread(void *unused) {
  own_and_press(0);
  press(PRESSURE);
  return unused;
}

// Locks of shared memory, whose owner dies with its own memory, the list's head in it, elsewhere.
static void robust(void) {
  pthread_t thread;
  for (int i = 0; i < 2; i++) nodes[i] = (struct lock_node *)shared_word();
  for (int i = 0; i < 2; i++) heads[i] = (struct robust_list_head *)(pages(3) + PAGE);
  CHECK(pthread_create(&thread, NULL, die_as_a_thread, NULL) == 0);
  pthread_join(thread, NULL);
  for (int i = 0; i < 2; i++) CHECK(nodes[i]->word == (FUTEX_OWNER_DIED | FUTEX_WAITERS));
  for (int ending = 0; ending < 2; ending++) {
    memset(nodes[0], 0, sizeof **nodes);
    memset(nodes[1], 0, sizeof **nodes);
    pid_t child = fork();
    if (child == 0) {
      own_and_press(1);
      press(PRESSURE);
      if (ending == 0) _exit(0);
      kill(getpid(), SIGKILL);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && (ending == 0 ? status == 0 : WTERMSIG(status) == SIGKILL));
    for (int i = 0; i < 2; i++) CHECK(nodes[i]->word == (FUTEX_OWNER_DIED | FUTEX_WAITERS));
  }
}

// What the C library makes of them: a robust mutex with priority inheritance, shared by processes, whose owner is killed.
static void library_mutex(void) {
  pthread_mutexattr_t attributes;
  pthread_mutex_t *mutex = (pthread_mutex_t *)shared_word();
  struct timespec until;
  int ready[2], status;
  char byte;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
  CHECK(pthread_mutex_init(mutex, &attributes) == 0 && pipe(ready) == 0);
  pid_t child = fork();
  if (child == 0) {
    pthread_mutex_lock(mutex);
    press(PRESSURE);
    if (write(ready[1], "r", 1) != 1) _exit(1);
    pause();
  }
  CHECK(read(ready[0], &byte, 1) == 1);
  CHECK(pthread_mutex_trylock(mutex) == EBUSY);
  kill(child, SIGKILL);
  CHECK(waitpid(child, &status, 0) == child);
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += PATIENCE_S;
  CHECK(pthread_mutex_timedlock(mutex, &until) == EOWNERDEAD);
  CHECK(pthread_mutex_consistent(mutex) == 0 && pthread_mutex_unlock(mutex) == 0);
}

int main(void) {
  wait_and_wake(FUTEX_PRIVATE_FLAG, word_page());
  wait_and_wake(0, word_page());
  wait_and_wake(0, shared_word());
  requeue(FUTEX_PRIVATE_FLAG, word_page(), word_page());
  requeue(0, word_page(), shared_word());
  wake_operation(FUTEX_PRIVATE_FLAG, word_page(), word_page());
  wake_operation(0, word_page(), word_page());
  inherit(FUTEX_PRIVATE_FLAG, word_page());
  inherit(0, word_page());
  inherit(0, shared_word());
  requeue_to_inheritor(word_page(), word_page());
  robust();
  library_mutex();
  return check_result();
}
