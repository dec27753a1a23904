# A generated C project of $1 files, built by 'make -j4'; what it prints and the digest of every object file.
set -e
python3 - "$1" <<'END'
import os, random, sys
random.seed(7)
files = int(sys.argv[1])
os.makedirs("src")
with open("src/all.h", "w") as header:
    for i in range(files):
        for j in range(8):
            header.write(f"int f{i}_{j}(int a, int b);\n")
for i in range(files):
    with open(f"src/m{i}.c", "w") as source:
        source.write('#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include "all.h"\n')
        for j in range(8):
            tail = f"+ f{i - 1}_{j}(a / 2, b)" if i else ""
            source.write(
                f"int f{i}_{j}(int a, int b) {{\n  int s = 0;\n  for (int i = 0; i < a; i++) {{\n"
                f"    s += i * b + {random.randrange(1000)};\n    if (s % {j + 3} == 0) s ^= {random.randrange(1000)};\n"
                f"  }}\n  return s {tail};\n}}\n")
with open("src/main.c", "w") as source:
    source.write('#include <stdio.h>\n#include "all.h"\nint main(void) {\n  unsigned s = 0;\n')
    for i in range(files):
        source.write(f"  s = s * 31 + f{i}_{i % 8}({i + 10}, {i});\n")
    source.write('  printf("%u\\n", s);\n}\n')
with open("Makefile", "w") as rules:
    rules.write("OBJECTS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))\n")
    rules.write("program: $(OBJECTS)\n\tgcc -o $@ $(OBJECTS) -lm\n%.o: %.c src/all.h\n\tgcc -O1 -c -o $@ $<\n")
END
make -s -j4
./program
sha256sum src/*.o
make -s -j4 | wc -l
