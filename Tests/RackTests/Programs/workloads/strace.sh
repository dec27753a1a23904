# strace follows a shell and its children; what they did is the same.
seq 1 20000 >numbers
strace -f -o trace -e trace=execve,exit_group,kill sh -c 'sort -rn numbers | head -3; cat numbers | wc -c; kill -USR1 $$' 
echo "status $?"
# A call that another process's line interrupts has no closing bracket.
grep -oE 'execve\("[^"]*"|exit_group\([0-9]+|killed by [A-Z0-9]+|exited with [0-9]+' trace | sort
strace -f -c -o summary python3 -c 'import threading
l = list(range(3000000))
t = [threading.Thread(target=lambda: print(sum(l))) for _ in range(3)]
[x.start() for x in t]; [x.join() for x in t]'
grep -q ' mmap$' summary && grep -q ' total$' summary && echo summed up
sleep 1000 & 
strace -p $! -o attached 2>said & tracer=$!
until grep -qs attached said; do sleep 0.02; done
kill -TERM %1
wait $tracer
grep -oE 'SIGTERM|killed by SIGTERM' attached | sort -u
