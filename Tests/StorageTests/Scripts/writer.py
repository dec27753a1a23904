"""Writes numbered records to files in the directory given until a file named "stop" appears, then reads all of them back.

Every record that write(2) acknowledged must be there. The component that keeps the files is replaced meanwhile.
"""
import os
import sys

os.chdir(sys.argv[1])
files = [os.open(f"record{index}", os.O_RDWR | os.O_CREAT, 0o644) for index in range(4)]
progress = os.open("progress", os.O_WRONLY | os.O_CREAT, 0o644)
count = 0
while not os.path.exists("stop"):
    for file in files:
        if os.pwrite(file, b"%015d\n" % count, count * 16) != 16:
            sys.exit("short write")
    os.pwrite(progress, b"%d" % count, 0)
    count += 1
for index, file in enumerate(files):
    expected = b"".join(b"%015d\n" % number for number in range(count))
    with open(f"record{index}", "rb") as again:
        if again.read() != expected or os.pread(file, len(expected) + 1, 0) != expected:
            sys.exit(f"record{index} is wrong after {count} records")
print("all there")
