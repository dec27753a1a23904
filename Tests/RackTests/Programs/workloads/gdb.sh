# Breakpoints, a backtrace, threads, a watched and a changed variable; a core file; a process that runs already.
gcc -g -O0 -pthread -o debuggee "$SOURCES/debuggee.c" || exit
export DEBUGINFOD_URLS=
debug() { gdb -nx -batch -iex 'set debuginfod enabled off' "$@" 2>&1; }
clean() { grep -vE '^\[|warning|^Using host|LWP|^$' | sed -E 's/0x[0-9a-f]+/ADDRESS/g; s/(process|pid) [0-9]+/\1 N/g'; }
debug -ex 'set print thread-events off' -ex 'break inner if depth == 1 && value == 1000' -ex run -ex 'backtrace 3' -ex 'delete' \
  -ex 'print numbers[1234567]' -ex 'print count' -ex 'set var numbers[0] = 77' -ex 'break 45' -ex 'continue' \
  -ex 'print numbers[0]' -ex 'x/2gd &numbers[2000000]' -ex 'kill' ./debuggee | clean | grep -E '^#|^\$|ADDRESS:|Breakpoint [0-9]+ at' |
  sed -E 's/Thread ADDRESS[^"]*//'
debug -ex 'break crash' -ex 'run crash' -ex 'info threads' -ex 'thread apply all backtrace 1' -ex 'finish' ./debuggee |
  grep -cE '^ *[* ] [0-9]+ +Thread'
ulimit -c unlimited
./debuggee crash
echo "status $?"
debug -ex 'backtrace' -ex 'print numbers[1]' -ex 'print numbers[1500000]' -ex 'print numbers[count - 2]' ./debuggee core* |
  clean | grep -E '^#|^\$|terminated'
debug -ex 'info threads' ./debuggee core* | grep -c 'Thread 0x'
rm -f core*
ulimit -c 0
./debuggee wait >out &
until grep -q waiting out; do sleep 0.02; done
debug -p $! -ex 'print numbers[1500000]' -ex 'set var numbers[1] = 41' -ex 'detach' | grep '^\$'
wait $!
echo "status $?"
cat out
