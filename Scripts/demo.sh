#!/usr/bin/env bash
# Shows the rack at work on this machine: installs what is missing, builds, starts one manager, one processor, two memory
# components and one storage component, runs unmodified programs, kills a memory component, and shuts the rack down.
source "$(dirname "$0")/lib.sh"
require_root
install_build_packages
install_packages python3 procps
[[ ${LEGO_SKIP_BUILD:-} ]] || build
export PATH=$binaries:$PATH
state=$(mktemp -d /var/tmp/lego-demo.XXXXXX)
chmod 755 "$state"
rack_is_up=''
clean_up() {
  if [[ $rack_is_up ]]; then legoctl rack down --state "$state/rack" || true; fi
  rm -rf "$state"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Shows a command as a person would type it, and runs it.
show() {
  printf '\n\033[36m$ %s\033[0m\n' "$*"
  "$@"
}
last_program() { legoctl ps -a --json | python3 -c 'import json, sys; print(max(p["id"] for p in json.load(sys.stdin)))'; }

say "a rack of separate daemons on this machine"
show legoctl rack up --state "$state/rack" --memories 2 --memory-size 512MiB --excache 256MiB
rack_is_up=1
show legoctl status

say "unmodified programs: their files come from the storage component"
show legoctl run -- /bin/sh -c 'seq 1000000 | sort -n | tail -1'
show legoctl run -- /usr/bin/perl -e 'print "perl $^V as uid $<\n"'

say "a program with some 256 MiB of objects and 64 MiB of local memory: the rest lives in a memory component"
show legoctl run --excache 64MiB -- /usr/bin/python3 -c 'l = [i * 7 for i in range(6_000_000)]; print(sum(l))'
show legoctl stats "$(last_program)"

say "two programs on two memory components; one component is killed"
holder='
import sys
l = [i * 7 for i in range(1_500_000)]
print("ready", flush=True)
sys.stdin.read()
print("still right" if all(l[i] == i * 7 for i in range(len(l))) else "WRONG")'
mkfifo "$state"/{first,second}.{in,out}
exec 5<>"$state/first.in" 6<>"$state/second.in" 7<>"$state/first.out" 8<>"$state/second.out"
start_holder() {
  legoctl run --name "$1" --user nobody --excache 16MiB -- /usr/bin/python3 -c "$holder" \
    <"$state/$1.in" >"$state/$1.out" 2>&1 5>&- 6>&- 7>&- 8>&- &
}
# await NAME FD: the program's next line.
await() { IFS= read -r -t 60 line <&"$2" || fail "the program '$1' says nothing"; }
start_holder first
first=$!
await first 7
start_holder second
second=$!
await second 8
show legoctl ps
victim=$(legoctl stats --json "$(legoctl ps --json | python3 -c 'import json, sys; print([p["id"] for p in json.load(sys.stdin) if p["name"] == "first"][0])')" |
  python3 -c 'import json, sys; m = json.load(sys.stdin)["perMemory"]; print(max(m, key=m.get))')
show legoctl component kill "$victim"
status=0
wait $first || status=$?
await first 7
printf 'the first program ended with status %d: %s\n' $status "$line"
exec 6>&-
await second 8
wait $second || fail "the second program was affected: $line"
printf 'the second program: %s\n' "$line"
exec 5>&- 7>&- 8>&-
show legoctl ps -a
show legoctl status
show legoctl component start "$victim"
show legoctl status

say "the rack is shut down; nothing stays behind"
show legoctl rack down --state "$state/rack"
rack_is_up=''
pgrep -r D,R,S,T,I -a '^lego' && fail "processes are left behind"
grep lego /proc/mounts && fail "mounts are left behind"
echo "no process, no mount, no shared memory left"
