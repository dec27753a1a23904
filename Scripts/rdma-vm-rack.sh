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
clean_up() {
  local status=$? log
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
}

# eventually SECONDS COMMAND: asks again until the command succeeds.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}
healthy() { legoctl status --json 2>/dev/null | python3 -c '
import json, sys
components = json.load(sys.stdin)["components"]
sys.exit(sum(c["health"] == "healthy" for c in components) != int(sys.argv[1]))' "$1" 2>/dev/null; }

say "a rack over verbs: manager, processor and a memory component on $near, a memory and a storage component on $far"
start manager lego-manager --listen $near:7070 --api $LEGO_RACK --state $state/manager --lease 10s
eventually 60 healthy 1 || fail "the manager does not start: $(legoctl status 2>&1)"
start memory0 lego-memory --name memory0 --manager $near:7070 --listen $near:0 --size 256MiB
start memory1 lego-memory --name memory1 --manager $near:7070 --listen $far:0 --size 256MiB
start storage0 lego-storage --name storage0 --manager $near:7070 --listen $far:0 --tree overlay --path / --state $state/storage0 --hide $state
start processor0 lego-processor --name processor0 --manager $near:7070 --listen $near:0 --excache 64MiB --state $state/processor0
eventually 120 healthy 5 || fail "not all components are healthy: $(legoctl status 2>&1)"
legoctl status

say "sort"
words=$(seq 2000 | sort -rn | md5sum)
sorted=$(legoctl run -- /bin/sh -c 'seq 2000 | sort -rn | md5sum')
[[ $sorted == "$words" ]] || fail "sort answers '$sorted', not '$words'"
echo "$sorted"
