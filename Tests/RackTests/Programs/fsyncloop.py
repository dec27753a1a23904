# Writes numbered records and reads them back, says what happened to each, and goes on: what a program sees of its file
# while the component that holds the file is away.
#
#   fsyncloop.py FILE: one line a record, "ok N" once N is on disk and was read back, or "ENAME N".
import errno
import os
import sys
import time

file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
number = 0
while True:
    try:
        os.pwrite(file, b"%07d\n" % number, number * 8)
        os.fsync(file)
        if os.pread(file, 8, number * 8) != b"%07d\n" % number:
            print("WRONG", number, flush=True)
        print("ok", number, flush=True)
        number += 1
    except OSError as error:
        print(errno.errorcode[error.errno], number, flush=True)
    time.sleep(0.01)
