// Reads a file that it maps so that it could write to it, from one end to the other. The first argument is a file to make.
#include "check.h"
#include <fcntl.h>

enum { COUNT = 6000, REST = 100 };

int main(int count, char **arguments) {
  if (count < 2) return 2;
  int file = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
  int page[PAGE / sizeof(int)];
  for (int i = 0; i < COUNT; i++) {
    for (size_t j = 0; j < PAGE / sizeof(int); j++) page[j] = i;
    CHECK(write(file, page, PAGE) == PAGE);
  }
  CHECK(ftruncate(file, (COUNT - 1) * PAGE + REST) == 0);
  // Through a descriptor for reading: through one for writing, what it writes to the file later would have to be seen.
  int reader = open(arguments[1], O_RDONLY);
  volatile int *memory = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, reader, 0);
  if (memory == MAP_FAILED) return 2;
  enum { STEP = PAGE / sizeof(int) };
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < COUNT; i++) CHECK(memory[i * STEP] == i);
    CHECK(memory[(COUNT - 1) * STEP + REST / (int)sizeof(int)] == 0);
  }
  // What was written stays, and goes into no file.
  for (int i = 0; i < COUNT; i += 100) memory[i * STEP] = -i;
  for (int i = 0; i < COUNT; i++) CHECK(memory[i * STEP] == (i % 100 ? i : -i));
  for (int i = 0; i < COUNT; i += 100) {
    CHECK(pread(file, page, sizeof(int), (off_t)i * PAGE) == sizeof(int));
    CHECK(page[0] == i);
  }
  unlink(arguments[1]);
  return check_result();
}
