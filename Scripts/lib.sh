# Shared by the scripts beside it: installation, build, and the clean-up of what they start. Sourced, not run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
configuration=release
binaries=$root/.build/$configuration

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

require_root() {
  [[ $(id -u) == 0 ]] || fail "needs root, for namespaces, userfaultfd and FUSE: run 'sudo $0'"
}

# Installs those of the named Debian packages that are missing.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || fail "missing packages: ${missing[*]}; install them with this system's package manager"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; } ||
    fail "cannot install ${missing[*]}"
}

# What the build and the daemons need.
install_build_packages() {
  install_packages gcc libc6-dev pkg-config libibverbs-dev librdmacm-dev libnuma-dev libfuse3-dev fuse3 libsqlite3-dev
  command -v swift >/dev/null || fail "no 'swift' in PATH: install the Swift 6.3 toolchain from https://swift.org/install"
}

# Builds all products; with the argument "tests" also the tests. Testing is enabled in both, so that one build serves both.
build() {
  say "building ($configuration)"
  local options=(--package-path "$root" -c "$configuration" -Xswiftc -enable-testing)
  [[ ${1:-} == tests ]] && options+=(--build-tests)
  swift build "${options[@]}" 2>&1 | { grep -vE "^\[[0-9]+/[0-9]+\] |unhandled; explicitly declare" || true; } ||
    fail "the build failed"
}

# The median of the numbers given.
median() { printf '%s\n' "$@" | sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
# ratio A B: A / B with two decimals.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.2f", a / b}'; }

# What every process of this project's binaries or tests does right now, thread by thread: for a run that hangs.
describe_processes() {
  local process thread
  for process in $(pgrep -f "$root/.build|/lego-|swiftpm-testing" || true); do
    # Not the command line: reading that may wait for the memory of a process that hangs.
    printf 'process %s %s, child of %s\n' "$process" "$(cat "/proc/$process/comm")" "$(awk '/^PPid/ {print $2}' "/proc/$process/status")"
    for thread in /proc/"$process"/task/*; do
      printf '  %s %s: %s\n' "$(cat "$thread/comm")" "$(awk '/^State/ {print $2}' "$thread/status")" \
        "$(awk '{print $2}' "$thread/stack" | head -6 | tr '\n' ' ')"
    done
  done 2>/dev/null
}

# The processes that a process has started, and those that these have.
descendants() {
  local child
  for child in $(pgrep -P "$1" || true); do
    descendants "$child"
    echo "$child"
  done
}

# within SECONDS COMMAND...: runs it; past that time says what hangs, and kills it.
within() {
  local seconds=$1 command watcher status=0
  shift
  "$@" &
  command=$!
  {
    trap 'kill $!; exit' TERM
    sleep "$seconds" &
    wait $!
    say "no end after $seconds s; what hangs:"
    timeout 60 bash -c "$(declare -f describe_processes); root='$root' describe_processes" || true
    kill -KILL $(descendants "$command") "$command" || true
  } &
  watcher=$!
  # A command in the background does not see the user's Ctrl-C.
  trap 'kill $(descendants "$command") "$command" "$watcher"; exit 130' INT TERM
  wait "$command" || status=$?
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  trap - INT TERM
  return "$status"
}
