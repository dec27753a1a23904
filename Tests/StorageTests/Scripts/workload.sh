#!/bin/sh
# Real programs at work in the directory $1; prints what must not differ between a native directory and a mounted one.
set -eu
umask 022
cd "$1"

# A tree with links, permissions, times, holes and an attribute, copied, packed and unpacked.
mkdir tree tree/sub tree/empty
head -c 3000000 /dev/zero | tr '\0' 'z' >tree/big
printf 'text\n' >tree/sub/text
ln tree/sub/text tree/hard
ln -s sub/text tree/soft
ln -s /nowhere tree/dangling
truncate -s 5M tree/sparse
printf end >>tree/sparse
chmod 4755 tree/sub/text
chmod 1777 tree/empty
touch -d '2001-02-03 04:05:06.789' tree/big
touch -h -d '2001-02-03 04:05:06.789' tree/soft tree/dangling
mkfifo tree/fifo
cp -a tree copy
tar -cf tree.tar tree
mkdir unpacked
tar -xf tree.tar -C unpacked
describe() {
    (cd "$1" && find . | LC_ALL=C sort | while read -r path; do
        stat -c '%n %F %a %h %u:%g %s %y' "$path" | sed 's/directory \(.*\) [0-9]* [0-9-]* [0-9:.]* .*$/directory \1/'
        if [ -f "$path" ] && [ ! -L "$path" ]; then sha256sum <"$path"; fi
    done | sed -E 's/(text|hard|sparse|fifo)( .*) [0-9]{4}-.*/\1\2/')
}
describe tree
describe tree >describe1
describe copy >describe2
cmp describe1 describe2 && echo copy is equal
diff -r --no-dereference tree/sub unpacked/tree/sub && cmp tree/sparse unpacked/tree/sparse && echo unpacked is equal

# Version control.
mkdir repository
cd repository
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q -b main .
for number in $(seq 1 200); do echo "file $number" >"file$number"; done
git add .
git commit -qm first
git checkout -qb side
git mv file1 renamed
sed -i 's/file/line/' file2
git commit -qam second
git checkout -q main
git merge -q side
git gc -q
git fsck --strict 2>/dev/null
git log --format='%H %s'
git status --short
cd ..

# A compiler, its output run, and a library in between.
cat >part.c <<'C'
int part(int x) { return x * 2; }
C
cat >main.c <<'C'
#include <stdio.h>
int part(int);
int main(void) { return printf("%d\n", part(21)) != 3; }
C
gcc -O1 -shared -fPIC -o libpart.so part.c
gcc -O1 -o main main.c -L. -lpart -Wl,-rpath,'$ORIGIN'
./main
cp main main.new && mv main.new main && ./main

# A database with its locks, its journal and its shared memory.
if command -v sqlite3 >/dev/null; then
    for mode in delete wal; do
        sqlite3 "$mode.db" "PRAGMA journal_mode=$mode; CREATE TABLE t(i INTEGER PRIMARY KEY, s TEXT);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
            INSERT INTO t SELECT i, hex(i*i) FROM n; UPDATE t SET s=s||'x' WHERE i%3=0; DELETE FROM t WHERE i%7=0;
            PRAGMA integrity_check; SELECT count(*), sum(length(s)) FROM t;"
    done
fi

# Sorting with temporary files, many files, appending by several.
seq 200000 | sort -R --random-source=/bin/sh >numbers
sort -n -S 1M -T . numbers | sha256sum
mkdir many
(cd many && seq 10000 | xargs touch && ls | wc -l && ls -f | sort | sha256sum && find . -type f -size 0 | wc -l && rm -r ../many)
for writer in 1 2 3 4; do (for line in $(seq 300); do echo "$writer $line" >>log; done) & done
wait
sort log | sha256sum
rm -rf tree copy unpacked repository
ls | LC_ALL=C sort
