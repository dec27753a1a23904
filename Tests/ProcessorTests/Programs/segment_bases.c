// Segment bases of every kind, which programs may set by instructions where the processor has them: those of the kernel's
// half, which ptrace(2) refuses to set, among them. They are there after a fork and after what the monitor does to a process.
#include "check.h"
#include <asm/prctl.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int has_instructions(void) { return (getauxval(AT_HWCAP2) & 2) != 0; }

__attribute__((target("fsgsbase"))) static uint64_t base(void) { return __builtin_ia32_rdgsbase64(); }
__attribute__((target("fsgsbase"))) static void set_base(uint64_t value) { __builtin_ia32_wrgsbase64(value); }

// Memory that comes and goes, so that faults and trapped calls are served meanwhile.
static void use_memory(void) {
  char *memory = pages(600);
  for (int i = 0; i < 600; i++) memory[i * PAGE] = (char)i;
  CHECK(mprotect(memory, PAGE, PROT_READ) == 0);
  for (int i = 0; i < 600; i++) CHECK(memory[i * PAGE] == (char)i);
  CHECK(munmap(memory, 600 * PAGE) == 0);
}

static void survives(uint64_t value) {
  set_base(value);
  use_memory();
  CHECK(base() == value);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    use_memory();
    CHECK(base() == value);
    _exit(check_failures != 0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(base() == value);
}

int main(void) {
  press(PRESSURE);
  if (!has_instructions()) {
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x200000000) == 0);
    uint64_t value = 0;
    use_memory();
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &value) == 0 && value == 0x200000000);
    return check_result();
  }
  for (uint64_t value = 1; value != 0; value <<= 1) {
    // An address has 47 bits below and ones above, or none above.
    if (value < 1ULL << 47) survives(value);
  }
  survives(0xffff800000000000);
  survives(0xffffffffffffffff);
  survives(0);
  return check_result();
}
