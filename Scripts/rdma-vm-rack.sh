#!/usr/bin/env bash
# For the inside of rdma-vm.sh: a rack of all four kinds of components whose every link is RDMA verbs, on two hosts.
# Programs run with remote memory, a memory component is killed, and the program that had nothing there runs on.
#
#   Scripts/rdma-vm.sh Scripts/rdma-vm-rack.sh
source "$(dirname "$0")/lib.sh"
near=10.77.0.1 far=10.77.0.2
export PATH=$binaries:$PATH LEGO_RACK=127.0.0.1:7071 SWIFT_BACKTRACE=enable=no
state=/var/tmp/lego-verbs
mkdir -p "$state/log"
daemons=()
# Where the threads of the daemons are: of one that hangs it is the only evidence.
say_threads() {
  local task
  for task in $(printf '/proc/%s/task/* ' "${daemons[@]}"); do
    [[ -d $task ]] || continue
    echo "-- $task $(<"$task/comm") $(cut -d ' ' -f 3,14,15 "$task/stat"): $(tr '\n' ' ' <"$task/stack")"
  done
}
clean_up() {
  local status=$? log
  ((status == 0 || ${#daemons[@]} == 0)) || say_threads 2>/dev/null || true
  ((${#daemons[@]} == 0)) || kill "${daemons[@]}" 2>/dev/null || true
  if ((status != 0)); then
    for log in "$state"/log/*; do echo "-- $log"; tail -n 25 "$log"; done
    dmesg | tail -n 15
  fi
}
trap clean_up EXIT

# start NAME EXECUTABLE ARGUMENTS: a daemon of the rack.
start() {
  local name=$1
  shift
  "$@" --fabric verbs --log-level debug </dev/null >"$state/log/$name" 2>&1 &
  daemons+=($!)
  # So that the shell does not report the one that is killed.
  disown
}

# said SECONDS NAME TEXT: waits for a line of the daemon's log. Asking the rack itself would take the processor that it
# needs to get there.
said() {
  local deadline=$((SECONDS + $1))
  until grep -q "$3" "$state/log/$2"; do
    ((SECONDS < deadline)) || fail "$2 has not said '$3' within $1 s"
    sleep 1
  done
}

say "a rack over verbs: manager, processor and a memory component on $near, a memory and a storage component on $far"
start manager lego-manager --listen $near:7070 --api $LEGO_RACK --state $state/manager --lease 20s
said 60 manager serving
start memory0 lego-memory --name memory0 --manager $near:7070 --listen $near:0 --size 128MiB
said 60 manager memory0
start memory1 lego-memory --name memory1 --manager $near:7070 --listen $far:0 --size 128MiB
said 60 manager memory1
start storage0 lego-storage --name storage0 --manager $near:7070 --listen $far:0 --tree overlay --path / --state $state/storage0 --hide $state
said 60 manager storage0
start processor0 lego-processor --name processor0 --manager $near:7070 --listen $near:0 --excache 64MiB --state $state/processor0
said 60 manager processor0
legoctl status

say "sort"
words=$(seq 2000 | sort -rn | md5sum)
sorted=$(legoctl run -- /bin/sh -c 'seq 2000 | sort -rn | md5sum')
[[ $sorted == "$words" ]] || fail "sort answers '$sorted', not '$words'"
echo "$sorted"

say "two programs of python with more memory than the ExCache gives them; the memory component of one is killed"
holder='
import sys
l = [i * 7 for i in range(200_000)]
print("ready", flush=True)
sys.stdin.readline()
print("right" if all(l[i] == i * 7 for i in range(len(l))) else "WRONG", flush=True)'
mkfifo "$state"/{first,second}.{in,out}
exec 5<>"$state/first.in" 6<>"$state/second.in" 7<>"$state/first.out" 8<>"$state/second.out"
# hold NAME: starts the program in the background, which then holds its memory.
hold() {
  legoctl run --name "$1" --excache 8MiB -- /usr/bin/python3 -c "$holder" \
    <"$state/$1.in" >"$state/$1.out" 2>"$state/log/$1" 5>&- 6>&- 7>&- 8>&- &
}
# await NAME FD: the program's next line.
await() { IFS= read -r -t 120 line <&"$2" || fail "the program '$1' says nothing"; }
# memory_of NAME: the component that holds most of the program's memory.
memory_of() {
  local id
  id=$(legoctl ps --json | python3 -c 'import json, sys
print(next(p["id"] for p in json.load(sys.stdin) if p["name"] == sys.argv[1]))' "$1")
  legoctl stats --json "$id" | python3 -c 'import json, sys
held = json.load(sys.stdin)["perMemory"]
print(max(held, key=held.get))'
}
hold first
first=$!
await first 7
hold second
second=$!
await second 8
victim=$(memory_of first) other=$(memory_of second)
echo "the first program's memory is in $victim, the second's in $other"
[[ $victim != "$other" ]] || fail "both programs have their memory in $victim"
legoctl component kill "$victim"
status=0
wait $first || status=$?
((status != 0)) || fail "the first program survived the loss of its memory"
echo "the first program ended with status $status: $(tail -n 1 "$state/log/first")"
echo >&6
await second 8
[[ $line == right ]] || fail "the second program says '$line'"
wait $second || fail "the second program ended with status $?"
echo "the second program's memory is right"
legoctl status
bytes=$(</sys/class/net/va/statistics/tx_bytes)
((bytes > 1 << 20)) || fail "only $bytes bytes went over the cable between the hosts"
say "the rack over verbs is right; $((bytes >> 20)) MiB went from one host to the other"
