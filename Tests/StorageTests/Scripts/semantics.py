"""Does many small things to a directory and prints what the kernel answers, one line per case.

The test runs it in a native directory and in a mounted one and compares the lines: what differs is a fault of the mount.
Usage: semantics.py DIRECTORY. Runs as root; permission cases fork a child with another identity.
"""
import array
import errno
import fcntl
import hashlib
import mmap
import os
import socket
import stat
import struct
import subprocess
import sys
import threading

CASES = []


def case(function):
    CASES.append(function)
    return function


def attempt(function, *arguments, **options):
    """The result of a call, or the name of its error."""
    try:
        return function(*arguments, **options)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def write(path, data, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode=0o644):
    descriptor = os.open(path, flags, mode)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def look(path):
    status = os.lstat(path)
    return oct(status.st_mode), status.st_nlink, status.st_uid, status.st_gid, status.st_size


def as_user(uid, gid, groups, function):
    """Runs function in a child with that identity; its printable result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        os.umask(0o022)
        os.write(writer, repr(attempt(function)).encode())
        os._exit(0)
    os.close(writer)
    answer = b""
    while chunk := os.read(reader, 4096):
        answer += chunk
    os.close(reader)
    os.waitpid(child, 0)
    return answer.decode()


@case
def create_modes():
    for mode in (0o000, 0o644, 0o755, 0o4755, 0o2755, 0o1777):
        write(f"f{mode:o}", b"x", mode=mode)
        os.mkdir(f"d{mode:o}", mode)
        yield look(f"f{mode:o}"), look(f"d{mode:o}")[0]


@case
def create_flags():
    write("a", b"one")
    yield attempt(os.open, "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    yield attempt(os.open, "absent", os.O_RDONLY)
    yield attempt(os.open, "a/b", os.O_RDONLY)
    yield attempt(os.open, "a", os.O_RDONLY | os.O_DIRECTORY)
    yield attempt(os.open, ".", os.O_WRONLY)
    write("a", b"2", os.O_WRONLY)
    yield read("a")
    write("a", b"3", os.O_WRONLY | os.O_APPEND)
    yield read("a")
    write("a", b"4", os.O_WRONLY | os.O_TRUNC)
    yield read("a")
    os.close(os.open("dir-or-not", os.O_CREAT | os.O_WRONLY, 0o600))
    yield look("dir-or-not")
    os.symlink("nowhere", "dangling")
    yield attempt(os.open, "dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(os.open("dangling", os.O_CREAT | os.O_WRONLY, 0o600))
    yield look("nowhere")
    yield attempt(os.open, "dangling", os.O_RDONLY | os.O_NOFOLLOW)
    yield attempt(os.open, "n" * 256, os.O_CREAT | os.O_WRONLY)
    yield attempt(write, "n" * 255, b"x"), look("n" * 255)


@case
def odd_names():
    names = [b"with blank", b"new\nline", b"\xff\xfe\x80", b"-dash", "ümläut".encode(), b"...", b"..x", b"\\back", b"a:b,c=d"]
    for name in names:
        write(name, name)
    yield sorted(os.listdir(b"."))
    yield all(read(name) == name for name in names)


@case
def links():
    write("a", b"data")
    os.link("a", "b")
    yield look("a"), look("b"), os.stat("a").st_ino == os.stat("b").st_ino
    os.unlink("a")
    yield look("b"), read("b")
    write("b", b"more")
    yield attempt(os.link, "b", "b"), attempt(os.link, "absent", "c"), attempt(os.link, ".", "c")
    os.symlink("b", "s")
    os.link("s", "t", follow_symlinks=False)
    yield os.readlink("t"), look("t"), read("t")
    yield attempt(os.readlink, "b"), attempt(os.readlink, "absent")
    long = "x/" * 2000
    os.symlink(long, "long")
    yield os.readlink("long") == long, look("long")
    os.symlink("loop", "loop")
    yield attempt(os.stat, "loop"), attempt(os.open, "loop", os.O_RDONLY)
    yield attempt(os.symlink, "x", "s"), attempt(os.symlink, "", "empty")
    os.lchown("s", 12, 34)
    yield look("s"), look("b")


@case
def directories():
    os.makedirs("a/b/c")
    write("a/b/f", b"x")
    yield look("a"), look("a/b")
    yield attempt(os.rmdir, "a"), attempt(os.unlink, "a"), attempt(os.rmdir, "a/b/f"), attempt(os.mkdir, "a")
    yield attempt(os.rmdir, "a/b/."), attempt(os.rmdir, "absent")
    os.unlink("a/b/f")
    os.rmdir("a/b/c")
    yield look("a/b"), os.listdir("a/b")
    os.rmdir("a/b")
    yield os.listdir("a"), attempt(os.stat, "a/b")
    here = os.open("a", os.O_RDONLY)
    os.rmdir("a")
    yield os.fstat(here).st_nlink, os.listdir(here), attempt(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.close(here)


@case
def renames():
    write("a", b"a")
    write("b", b"b")
    os.rename("a", "c")
    yield attempt(os.stat, "a"), read("c")
    os.rename("c", "b")
    yield read("b"), os.listdir(".")
    os.mkdir("d")
    os.mkdir("e")
    write("e/x", b"x")
    yield attempt(os.rename, "d", "e"), attempt(os.rename, "b", "d"), attempt(os.rename, "d", "b")
    os.rename("e", "d")
    yield sorted(os.listdir(".")), os.listdir("d")
    yield attempt(os.rename, "d", "d/sub"), attempt(os.rename, "absent", "z")
    os.link("b", "b2")
    os.rename("b", "b2")
    yield sorted(os.listdir("."))
    os.makedirs("deep/er")
    write("deep/er/f", b"f")
    held = os.open("deep/er/f", os.O_RDONLY)
    os.rename("deep", "moved")
    yield read("moved/er/f"), os.read(held, 9), os.fstat(held).st_size
    os.close(held)
    ends = os.open("moved/er", os.O_RDONLY)
    os.rename("moved/er", "er2")
    yield os.listdir(ends), read("er2/f")
    os.close(ends)


def renameat2(old, new, flags):
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, old.encode(), -100, new.encode(), flags) == 0:
        return 0
    return errno.errorcode[ctypes.get_errno()]


@case
def rename_flags():
    write("a", b"a")
    write("b", b"b")
    yield renameat2("a", "b", 1), renameat2("a", "c", 1), sorted(os.listdir("."))
    yield renameat2("b", "c", 2), read("b"), read("c"), renameat2("b", "absent", 2)
    os.mkdir("d")
    write("d/x", b"x")
    yield renameat2("d", "b", 2), read("b/x"), read("d")
    yield renameat2("a", "b", 8)


@case
def unlinked_open_files():
    descriptor = os.open("a", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"hello")
    os.unlink("a")
    yield os.fstat(descriptor).st_nlink, os.pread(descriptor, 9, 0), os.listdir(".")
    os.ftruncate(descriptor, 2)
    os.fchmod(descriptor, 0o600)
    os.pwrite(descriptor, b"tail", 2)
    yield os.pread(descriptor, 9, 0), oct(os.fstat(descriptor).st_mode)
    write("a", b"another")
    yield os.pread(descriptor, 9, 0), read("a")
    os.close(descriptor)
    write("b", b"b")
    write("c", b"c")
    descriptor = os.open("c", os.O_RDONLY)
    os.rename("b", "c")
    yield os.read(descriptor, 9), read("c"), os.fstat(descriptor).st_nlink
    os.close(descriptor)
    path = os.open("c", os.O_PATH)
    os.unlink("c")
    yield os.fstat(path).st_nlink, os.fstat(path).st_size
    os.close(path)


@case
def sizes_and_holes():
    write("a", b"0123456789")
    os.truncate("a", 4)
    yield read("a")
    os.truncate("a", 8)
    yield read("a")
    yield attempt(os.truncate, "absent", 1), attempt(os.truncate, ".", 1), attempt(os.truncate, "a", -1)
    descriptor = os.open("sparse", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"end", (1 << 30) - 3)
    status = os.fstat(descriptor)
    yield status.st_size, status.st_blocks < 100
    os.fsync(descriptor)
    hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
    data = os.lseek(descriptor, 0, os.SEEK_DATA)
    yield hole, data > 0 and data <= (1 << 30) - 3, attempt(os.lseek, descriptor, 1 << 31, os.SEEK_DATA)
    yield os.pread(descriptor, 10, 1 << 29), os.pread(descriptor, 10, (1 << 30) - 5)
    os.ftruncate(descriptor, 0)
    os.posix_fallocate(descriptor, 0, 100000)
    yield os.fstat(descriptor).st_size, os.fstat(descriptor).st_blocks >= 190
    os.close(descriptor)
    yield attempt(os.truncate, "sparse", 1 << 62)


@case
def copy_ranges():
    body = bytes(range(256)) * 4096
    write("a", body)
    source, target = os.open("a", os.O_RDONLY), os.open("b", os.O_RDWR | os.O_CREAT)
    copied = 0
    while copied < len(body):
        copied += os.copy_file_range(source, target, len(body) - copied)
    os.close(source)
    os.close(target)
    yield read("b") == body


@case
def attributes():
    write("a", b"x")
    os.chmod("a", 0o4711)
    yield look("a")
    os.chown("a", 1000, 1001)
    yield look("a")
    os.chown("a", -1, 7)
    yield look("a")
    os.utime("a", ns=(1_234_567_891, 2_345_678_912))
    status = os.stat("a")
    yield status.st_atime_ns, status.st_mtime_ns
    os.utime("a", ns=(0, (1 << 33) * 1_000_000_000))
    yield os.stat("a").st_mtime_ns
    before = os.stat("a").st_mtime_ns
    os.utime("a")
    yield os.stat("a").st_mtime_ns != before
    os.symlink("a", "s")
    os.utime("s", ns=(5, 6_000_000_000), follow_symlinks=False)
    yield os.lstat("s").st_mtime_ns, os.stat("a").st_mtime_ns != 6_000_000_000
    yield attempt(os.chmod, "absent", 0), attempt(os.chown, "absent", 0, 0)


@case
def set_id_bits_cleared():
    write("a", b"x")
    os.chown("a", 1000, 1000)
    os.chmod("a", 0o6777)
    yield as_user(2000, 2000, [], lambda: write("a", b"yy", os.O_WRONLY)), look("a")
    os.chmod("a", 0o6777)
    yield as_user(2000, 2000, [], lambda: os.truncate("a", 0)), look("a")
    os.chmod("a", 0o6777)
    yield as_user(2000, 2000, [], lambda: write("a", b"", os.O_WRONLY | os.O_TRUNC)), look("a")
    os.chmod("a", 0o6777)
    yield as_user(2000, 2000, [], lambda: allocate("a", 100)), look("a")
    write("source", b"copied")
    os.chmod("a", 0o6777)
    yield as_user(2000, 2000, [], lambda: copy_range("source", "a", 6)), look("a")
    os.chmod("a", 0o6777)
    os.chown("a", 1000, 1002)
    yield look("a")
    # Not by whoever may set them.
    os.chmod("a", 0o6777)
    yield write("a", b"root", os.O_WRONLY), look("a")
    yield write("a", b"", os.O_WRONLY | os.O_TRUNC), look("a")
    os.truncate("a", 5)
    yield look("a")
    # Nor by an open that changes nothing, nor where no group may execute: that bit is another mark.
    yield as_user(2000, 2000, [], lambda: write("a", b"", os.O_WRONLY)), look("a")
    os.chmod("a", 0o2767)
    yield as_user(2000, 1002, [], lambda: write("a", b"x", os.O_WRONLY)), look("a")


def allocate(path, count):
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.posix_fallocate(descriptor, 0, count)
    finally:
        os.close(descriptor)


def copy_range(source, target, count):
    descriptors = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
    try:
        return os.copy_file_range(*descriptors, count)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@case
def times_move():
    write("a", b"x")
    os.utime("a", ns=(1, 1))
    write("a", b"y", os.O_WRONLY)
    yield os.stat("a").st_mtime > 1000
    os.mkdir("d")
    os.utime("d", ns=(1, 1))
    write("d/x", b"")
    yield os.stat("d").st_mtime > 1000
    os.utime("d", ns=(1, 1))
    os.unlink("d/x")
    yield os.stat("d").st_mtime > 1000


@case
def special_files():
    os.mkfifo("p", 0o640)
    yield look("p")
    reader = os.open("p", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("p", os.O_WRONLY)
    os.write(writer, b"through")
    yield os.read(reader, 99)
    server = socket.socket(socket.AF_UNIX)
    server.bind("s")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("s")
    yield stat.S_ISSOCK(os.stat("s").st_mode), attempt(os.open, "s", os.O_RDONLY)
    client.close()
    server.close()
    os.mknod("r", 0o600 | stat.S_IFREG)
    yield look("r")
    yield as_user(1000, 1000, [], lambda: os.mknod("n", 0o600 | stat.S_IFCHR, os.makedev(1, 3)))


@case
def permissions():
    os.chmod(".", 0o755)
    write("private", b"x", mode=0o600)
    write("shared", b"x", mode=0o640)
    os.chown("shared", 0, 500)
    os.mkdir("open", 0o777)
    os.chmod("open", 0o777)
    os.mkdir("closed", 0o700)
    write("closed/x", b"x")
    yield as_user(1000, 1000, [], lambda: read("private"))
    yield as_user(1000, 1000, [], lambda: read("shared"))
    yield as_user(1000, 1000, [500], lambda: read("shared"))
    yield as_user(1000, 500, [], lambda: read("shared"))
    yield as_user(1000, 1000, [500], lambda: write("shared", b"y", os.O_WRONLY))
    yield as_user(1000, 1000, [], lambda: os.stat("closed/x"))
    yield as_user(1000, 1000, [], lambda: os.listdir("closed"))
    yield as_user(1000, 1000, [], lambda: write("mine", b"x"))
    yield as_user(1000, 1000, [], lambda: write("open/mine", b"x")), look("open/mine")
    yield as_user(1000, 1000, [], lambda: os.mkdir("open/dir")), look("open/dir")
    yield as_user(1000, 1000, [], lambda: os.symlink("x", "open/link")), look("open/link")
    yield as_user(1001, 1001, [], lambda: write("open/mine", b"z", os.O_WRONLY))
    yield as_user(1001, 1001, [], lambda: os.chmod("open/mine", 0o777))
    yield as_user(1000, 1000, [], lambda: os.chmod("open/mine", 0o400)), look("open/mine")
    yield as_user(1000, 1000, [], lambda: write("open/mine", b"z", os.O_WRONLY))
    yield as_user(1000, 1000, [], lambda: os.chown("open/mine", 1001, -1))
    yield as_user(1000, 1000, [77], lambda: os.chown("open/mine", -1, 77)), look("open/mine")
    yield as_user(1000, 1000, [], lambda: os.chown("open/mine", -1, 78))
    yield as_user(1001, 1001, [], lambda: os.unlink("open/mine"))
    yield as_user(1000, 1000, [], lambda: os.link("private", "open/stolen"))
    yield as_user(1000, 1000, [], lambda: os.utime("private"))
    yield as_user(1000, 1000, [], lambda: os.access("private", os.R_OK)), as_user(0, 0, [], lambda: os.access("private", os.R_OK))


@case
def sticky_and_set_group_directories():
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    as_user(1000, 1000, [], lambda: write("sticky/a", b"x"))
    yield as_user(1001, 1001, [], lambda: os.unlink("sticky/a"))
    yield as_user(1001, 1001, [], lambda: os.rename("sticky/a", "sticky/b"))
    yield as_user(1000, 1000, [], lambda: os.unlink("sticky/a"))
    os.mkdir("group")
    os.chown("group", 0, 600)
    os.chmod("group", 0o2777)
    as_user(1000, 1000, [], lambda: write("group/a", b"x"))
    as_user(1000, 1000, [], lambda: os.mkdir("group/d"))
    as_user(1000, 1000, [], lambda: os.symlink("a", "group/s"))
    yield look("group/a"), look("group/d"), look("group/s")
    yield as_user(1000, 1000, [], lambda: write("group/x", b"", mode=0o2775)), look("group/x")


@case
def extended_attributes():
    write("a", b"x")
    yield attempt(os.getxattr, "a", "user.x"), os.listxattr("a")
    os.setxattr("a", "user.x", b"value")
    os.setxattr("a", "user.empty", b"")
    yield os.getxattr("a", "user.x"), os.getxattr("a", "user.empty"), sorted(os.listxattr("a"))
    yield attempt(os.setxattr, "a", "user.x", b"", os.XATTR_CREATE), attempt(os.setxattr, "a", "user.y", b"", os.XATTR_REPLACE)
    os.setxattr("a", "user.x", bytes(range(256)), os.XATTR_REPLACE)
    yield os.getxattr("a", "user.x") == bytes(range(256))
    os.removexattr("a", "user.x")
    yield attempt(os.removexattr, "a", "user.x"), os.listxattr("a")
    os.mkdir("d")
    os.setxattr("d", "user.dir", b"1")
    yield os.getxattr("d", "user.dir")
    yield attempt(os.getxattr, "a", "security.capability")
    os.chmod("a", 0o600)
    yield as_user(1000, 1000, [], lambda: os.getxattr("a", "user.empty"))


@case
def mapped_memory():
    write("a", bytes(10000))
    with open("a", "r+b") as file:
        shared = mmap.mmap(file.fileno(), 10000)
        shared[5000:5005] = b"12345"
        shared.flush()
        yield read("a")[4999:5006]
        private = mmap.mmap(file.fileno(), 10000, flags=mmap.MAP_PRIVATE)
        private[0:3] = b"abc"
        yield read("a")[:3], private[:6]
        file.seek(8000)
        file.write(b"through")
        file.flush()
        yield shared[8000:8007], private[8000:8007]
        shared[9000:9003] = b"end"
        shared.close()
    yield read("a")[9000:9003]
    write("program", b"#!/bin/sh\necho ran $1\n", mode=0o755)
    yield subprocess.run(["./program", "well"], capture_output=True).stdout
    subprocess.run(["cp", "/bin/true", "binary"], check=True)
    yield subprocess.run(["./binary"]).returncode
    os.chmod("binary", 0o644)
    yield attempt(subprocess.run, ["./binary"])


@case
def locks():
    write("a", b"x" * 100)
    first, second = os.open("a", os.O_RDWR), os.open("a", os.O_RDWR)
    fcntl.flock(first, fcntl.LOCK_EX)
    yield attempt(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(first, fcntl.LOCK_UN)
    yield attempt(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(first, fcntl.LOCK_EX, 10, 0)

    def other(start):
        file = os.open("a", os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

    yield as_user(0, 0, [], lambda: other(5)), as_user(0, 0, [], lambda: other(50))
    os.close(first)
    os.close(second)


@case
def listing():
    for index in range(3000):
        os.close(os.open(f"file-{index:05}", os.O_CREAT | os.O_WRONLY))
    names = os.listdir(".")
    yield len(names), len(set(names)), hashlib.sha256("".join(sorted(names)).encode()).hexdigest()
    with os.scandir(".") as entries:
        yield sum(entry.is_file(follow_symlinks=False) and entry.stat().st_size == 0 for entry in entries)
    # Removal while a listing is under way: each name that stays is shown exactly once.
    shown = []
    with os.scandir(".") as entries:
        for number, entry in enumerate(entries):
            shown.append(entry.name)
            if number % 3 == 0:
                os.unlink(entry.name)
    yield len(shown) == len(set(shown)), len(os.listdir("."))
    yield len([name for name in os.listdir(".") if name not in shown])


@case
def concurrent_writers():
    descriptor = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.close(descriptor)

    def append(mark):
        file = os.open("log", os.O_WRONLY | os.O_APPEND)
        for index in range(200):
            os.write(file, b"%c%06d\n" % (mark, index))
        os.close(file)

    threads = [threading.Thread(target=append, args=(ord("a") + index,)) for index in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    lines = read("log").splitlines()
    yield len(lines), len(set(lines)), {len(line) for line in lines}

    def place(index):
        file = os.open("grid", os.O_WRONLY | os.O_CREAT)
        for row in range(100):
            os.pwrite(file, bytes([index]) * 777, (row * 6 + index) * 777)
        os.close(file)

    threads = [threading.Thread(target=place, args=(index,)) for index in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    grid = read("grid")
    yield len(grid), all(grid[at * 777 : at * 777 + 777] == bytes([at % 6]) * 777 for at in range(600))


@case
def exclusive_creation_race():
    winners = []

    def race(name):
        for index in range(50):
            try:
                os.close(os.open(f"lock{index}", os.O_CREAT | os.O_EXCL))
                winners.append(index)
            except FileExistsError:
                pass

    threads = [threading.Thread(target=race, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    yield sorted(winners) == list(range(50))


@case
def read_write_patterns():
    import random

    random.seed(7)
    model = bytearray()
    descriptor = os.open("a", os.O_RDWR | os.O_CREAT)
    digest = hashlib.sha256()
    for _ in range(600):
        place, count = random.randrange(1 << 21), random.randrange(1, 70000)
        if random.random() < 0.5:
            data = random.randbytes(count)
            if len(model) < place + count:
                model.extend(bytes(place + count - len(model)))
            model[place : place + count] = data
            os.pwrite(descriptor, data, place)
        elif random.random() < 0.1:
            os.ftruncate(descriptor, place)
            model = model[:place] + bytes(max(0, place - len(model)))
        else:
            digest.update(os.pread(descriptor, count, place))
            assert os.pread(descriptor, count, place) == bytes(model[place : place + count])
    os.close(descriptor)
    yield read("a") == bytes(model), digest.hexdigest()


@case
def deep_tree():
    start = os.open(".", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deeper")
        os.chdir("deeper")
    write("bottom", b"bottom")
    yield read("bottom")
    os.fchdir(start)
    os.close(start)
    yield sum(len(files) for _, _, files in os.walk(".")), attempt(os.stat, "deeper/" * 300 + "bottom") != "ENOENT"


@case
def odd_calls():
    write("a", b"x")
    yield attempt(fcntl.ioctl, os.open("a", os.O_RDONLY), 0x5401, b"0" * 64)
    count = array.array("i", [0])
    yield attempt(os.pread, os.open("a", os.O_WRONLY), 1, 0), attempt(os.write, os.open("a", os.O_RDONLY), b"x")
    yield attempt(os.open, "", os.O_RDONLY), attempt(os.stat, "a/"), attempt(os.mkdir, "")
    descriptor = os.open(".", os.O_RDONLY)
    yield attempt(os.fsync, descriptor), attempt(os.read, descriptor, 1)
    os.close(descriptor)
    temporary = attempt(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600)
    yield "EOPNOTSUPP or a file", isinstance(temporary, int) or temporary in ("ENOTSUP", "EISDIR")


def main():
    os.chdir(sys.argv[1])
    os.umask(0o022)
    top = os.getcwd()
    for function in CASES:
        os.chdir(top)
        os.mkdir(function.__name__)
        os.chmod(function.__name__, 0o755)
        os.chdir(function.__name__)
        lines = []
        try:
            for index, result in enumerate(function()):
                lines.append(f"{function.__name__} {index}: {result!r}")
        except Exception as error:
            lines.append(f"{function.__name__}: raised {error!r}")
        print("\n".join(lines), flush=True)


main()
